package server

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// journal has the events of late, by the channels that they went to. Each event of
// the server has a position, which counts up; clients see it as an offset. The
// owner's lock protects it.
type journal struct {
	age   time.Duration
	limit int // bytes
	seal  cipher.Block

	bytes     int
	entries   []*entry // oldest first
	byChannel map[string][]*entry

	// What is no longer there: for a channel the position of its last event that was
	// dropped, and for all channels together a position before which nobody asks.
	dropped map[string]*mark
	floor   uint64
}

type entry struct {
	at       uint64
	when     time.Time
	channels []string
	message  *tidemark.Message
	about    topic
	bytes    int
}

// topic is what an event is about.
type topic uint8

const (
	other  topic = iota
	models       // a call of a model's service: who has scopes hears of it by these
)

type mark struct {
	at     uint64
	unused time.Time // since when nobody is in the channel; zero while somebody is
}

// maxMarks bounds the channels whose dropped events are told apart.
const maxMarks = 1 << 17

func newJournal(age time.Duration, limit int) journal {
	key := make([]byte, 32)
	_, _ = rand.Read(key)         // does not fail
	seal, _ := aes.NewCipher(key) // of a length that it takes
	return journal{age: age, limit: limit, seal: seal, byChannel: make(map[string][]*entry), dropped: make(map[string]*mark)}
}

// offset returns the name by which clients know a position. It is encrypted, so that it
// can neither be made up nor tell how many events a server sends, or another
// server's be taken for it.
func (j *journal) offset(at uint64) string {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:], at)
	j.seal.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// position is the inverse of offset; it reports false for what was no offset of this server.
func (j *journal) position(offset string) (at uint64, ok bool) {
	var b [aes.BlockSize]byte
	if len(offset) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return 0, false
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(offset)); err != nil {
		return 0, false
	}
	j.seal.Decrypt(b[:], b[:])
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]) == 0
}

// stamp gives m, which is not sent yet, the offset of its position as a last argument.
func (j *journal) stamp(m *tidemark.Message, at uint64) {
	m.Args = append(slices.Clip(m.Args), tidemark.AppendString(nil, j.offset(at)))
}

func (j *journal) add(at uint64, channels []string, m *tidemark.Message, about topic, now time.Time) {
	e := &entry{at: at, when: now, channels: slices.Clone(channels), message: m, about: about, bytes: weigh(m, channels)}
	j.entries = append(j.entries, e)
	for _, name := range e.channels {
		j.byChannel[name] = append(j.byChannel[name], e)
	}
	j.bytes += e.bytes
	for j.bytes > j.limit {
		j.drop()
	}
}

// weigh is about how much memory an entry takes. The texts count twice: a transport keeps
// the frame that it made of them.
func weigh(m *tidemark.Message, channels []string) int {
	n := 400 + 2*len(m.Event)
	for _, a := range m.Args {
		n += 2*len(a) + 24
	}
	for _, a := range m.Attachments {
		n += len(a) + 24
	}
	for _, name := range channels {
		n += len(name) + 32
	}
	return n
}

// drop drops the oldest entry.
func (j *journal) drop() {
	e := j.entries[0]
	j.entries[0] = nil
	j.entries = j.entries[1:]
	j.bytes -= e.bytes
	for _, name := range e.channels {
		list := j.byChannel[name]
		list[0] = nil
		if j.byChannel[name] = list[1:]; len(list) == 1 {
			delete(j.byChannel, name)
		}
		if m := j.dropped[name]; m != nil {
			m.at = e.at
		} else {
			j.dropped[name] = &mark{at: e.at}
		}
	}
	if len(j.dropped) > maxMarks {
		clear(j.dropped)
		j.floor = e.at
	}
}

// since returns the messages after a position for one who is in the channels, each
// since a position of its own; without those about models for one who has scopes. It reports
// false when some may have been dropped.
func (j *journal) since(after uint64, channels map[string]uint64, scoped bool) ([]*tidemark.Message, bool) {
	if after < j.floor {
		return nil, false
	}
	var missed []*entry
	for name, joined := range channels {
		from := max(after, joined)
		if m := j.dropped[name]; m != nil && m.at > from {
			return nil, false
		}
		list := j.byChannel[name]
		i := sort.Search(len(list), func(i int) bool { return list[i].at > from })
		missed = append(missed, list[i:]...)
	}
	slices.SortFunc(missed, func(a, b *entry) int { return cmp.Compare(a.at, b.at) })
	missed = slices.Compact(missed)
	messages := make([]*tidemark.Message, 0, len(missed))
	for _, e := range missed {
		if !scoped || e.about != models {
			messages = append(messages, e.message)
		}
	}
	return messages, true
}

// sweep drops what is too old. inUse tells whether somebody is in a channel.
func (j *journal) sweep(now time.Time, inUse func(channel string) bool) {
	for len(j.entries) > 0 && now.Sub(j.entries[0].when) >= j.age {
		j.drop()
	}
	for name, m := range j.dropped {
		switch {
		case inUse(name):
			m.unused = time.Time{}
		case m.unused.IsZero():
			m.unused = now
		case now.Sub(m.unused) > j.age: // nobody who was there can come back
			delete(j.dropped, name)
		}
	}
}

// idle reports whether there is nothing that age would change.
func (j *journal) idle(inUse func(channel string) bool) bool {
	if len(j.entries) > 0 {
		return false
	}
	for name := range j.dropped {
		if !inUse(name) {
			return false
		}
	}
	return true
}
