package dispatch

import "strings"

const slots = 16384

// slotOf returns the slot of a key in Redis Cluster: the CRC-16 (XMODEM) of what is within its first braces, or of all of
// it. See "Redis cluster specification", "Key distribution model" and "Hash tags".
func slotOf(key string) int {
	if _, tail, found := strings.Cut(key, "{"); found {
		if tag, _, found := strings.Cut(tail, "}"); found && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
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
