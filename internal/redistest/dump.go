package redistest

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// restored returns the scores and members of a sorted set that DUMP wrote, in the order of ZADD's arguments. It reads
// the formats that Redis 7, Valkey 8 and later ones write without compression.
func restored(dump string) (entries []string, err error) {
	defer func() {
		if p := recover(); p != nil { // such as an index out of range
			entries, err = nil, fmt.Errorf("a dump that cannot be read: %v", p)
		}
	}()
	const zset2, zsetListpack = 5, 17
	d := dumped(dump[:len(dump)-10]) // a version and a checksum follow
	switch kind := d.take(1)[0]; kind {
	case zsetListpack:
		list := dumped(d.take(d.length()))
		list.take(6)
		for list[0] != 0xff {
			member := list.element()
			entries = append(entries, list.element(), member)
		}
	case zset2:
		for range d.length() {
			member := d.take(d.length())
			score := math.Float64frombits(binary.LittleEndian.Uint64([]byte(d.take(8))))
			entries = append(entries, strconv.FormatFloat(score, 'f', -1, 64), string(member))
		}
	default:
		return nil, fmt.Errorf("a dump of type %d, which is not a sorted set", kind)
	}
	return entries, nil
}

// dumped is the part of a dump that is still to be read.
type dumped string

func (d *dumped) take(n int) dumped {
	taken := (*d)[:n]
	*d = (*d)[n:]
	return taken
}

// number reads an unsigned number that has so many bytes.
func (d *dumped) number(bytes int, order binary.ByteOrder) int {
	var all [8]byte
	if order == binary.BigEndian {
		copy(all[8-bytes:], d.take(bytes))
	} else {
		copy(all[:], d.take(bytes))
	}
	return int(order.Uint64(all[:]))
}

// length reads the length of a string, which precedes it.
func (d *dumped) length() int {
	switch first := int(d.take(1)[0]); {
	case first < 0x40:
		return first
	case first < 0x80:
		return (first&0x3f)<<8 | int(d.take(1)[0])
	case first == 0x80:
		return d.number(4, binary.BigEndian)
	}
	panic("a string that is encoded as a number, or compressed")
}

// element reads an element of a listpack.
func (d *dumped) element() string {
	before := len(*d)
	signed := func(n, bits int) string { return strconv.FormatInt(int64(n)<<(64-bits)>>(64-bits), 10) }
	var text string
	switch first := int(d.take(1)[0]); {
	case first < 0x80:
		text = strconv.Itoa(first)
	case first < 0xc0:
		text = string(d.take(first & 0x3f))
	case first < 0xe0:
		text = signed((first&0x1f)<<8|int(d.take(1)[0]), 13)
	case first < 0xf0:
		text = string(d.take((first&0xf)<<8 | int(d.take(1)[0])))
	case first == 0xf0:
		text = string(d.take(d.number(4, binary.LittleEndian)))
	case first == 0xf4:
		text = signed(d.number(8, binary.LittleEndian), 64)
	default:
		bytes := first - 0xf0 + 1 // 0xf1 to 0xf3 are 2 to 4
		text = signed(d.number(bytes, binary.LittleEndian), 8*bytes)
	}
	size := before - len(*d)
	d.take(1) // the length of the element follows it
	for ; size > 127; size >>= 7 {
		d.take(1)
	}
	return text
}
