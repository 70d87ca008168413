package dispatch

const slots = 16384

// slotOf returns the slot of a hash tag in Redis Cluster: its CRC-16 (XMODEM). See "Redis cluster specification", "Key
// distribution model" and "Hash tags".
func slotOf(hashTag string) int {
	var crc uint16
	for i := range len(hashTag) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^hashTag[i]]
	}
	return int(crc % slots)
}

var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			carry := crc>>15 == 1
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
		table[i] = crc
	}
	return table
}()
