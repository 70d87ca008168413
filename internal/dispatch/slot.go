package dispatch

import "github.com/redis/rueidis"

// slots is the number of slots of Redis Cluster.
const slots = 16384

// slotOf returns the slot, in Redis Cluster, of the keys with a hash tag. It is computed from the CRC-16 (XMODEM) of
// the tag: see the sections "Key distribution model" and "Hash tags" of the Redis Cluster specification.
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

// slotIn returns the slot of the keys with a hash tag, or 0 if the client is not connected to a cluster.
func slotIn(client rueidis.Client, hashTag string) int {
	if client.Mode() != rueidis.ClientModeCluster {
		return 0
	}
	return slotOf(hashTag)
}
