package tidemark

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
)

// Batch is a part of a client's outbox on its way to the server.
type Batch struct {
	// Client names the client, which numbers its mutations: a uid, see CheckUID.
	Client string
	// Owner is whose client it is, as the server knows; it is bound at the client's first push. May be empty.
	Owner string
	// Confirmed is the number up to which the client has stored the verdicts.
	Confirmed int64
	// Mutations have consecutive numbers. Those of a unit stand together, whole.
	Mutations []Mutation
	// Refused is nil, or has for each mutation why it is refused before the driver has seen it, nil for those that are not.
	Refused []*Error
	// Digests is nil, or has for each mutation its Digest as the client sent it, where it was made canonical since, or changed by hooks.
	Digests []uint64
}

// Part returns b.Mutations[from:to] as a batch of their own.
func (b *Batch) Part(from, to int) *Batch {
	p := *b
	p.Mutations = b.Mutations[from:to:to]
	p.Refused = part(b.Refused, from, to)
	p.Digests = part(b.Digests, from, to)
	return &p
}

func part[T any](list []T, from, to int) []T {
	to = min(to, len(list))
	from = min(from, to)
	return list[from:to:to]
}

// digest returns that of mutation i.
func (b *Batch) digest(i int) uint64 {
	if i < len(b.Digests) {
		return b.Digests[i]
	}
	return b.Mutations[i].Digest()
}

// Refusal returns why mutation i is refused already, nil when it is not.
func (b *Batch) Refusal(i int) *Error {
	if i < len(b.Refused) {
		return b.Refused[i]
	}
	return nil
}

// Check reports whether the batch is well formed: a client's name, at least one mutation,
// consecutive numbers from 1, whole units. Errors: [CodeInvalidRequest].
func (b *Batch) Check() error {
	if CheckUID(b.Client) != nil || len(b.Mutations) == 0 || b.Mutations[0].N < 1 {
		return NewError(CodeInvalidRequest, "a batch needs a client's name, and mutations numbered from 1")
	}
	first := b.Mutations[0].N
	for i := range b.Mutations {
		m := &b.Mutations[i]
		switch {
		case m.N != first+int64(i):
			return NewError(CodeInvalidRequest, "the numbers of a batch are consecutive")
		case m.Unit != 0 && (m.Unit < m.N || m.Unit >= first+int64(len(b.Mutations))):
			return NewError(CodeInvalidRequest, "a unit stands whole in its batch")
		case i > 0 && b.Mutations[i-1].Unit >= m.N && b.Mutations[i-1].Unit != m.Unit:
			return NewError(CodeInvalidRequest, "units do not overlap")
		}
	}
	return nil
}

// EachUnit calls fn for each part of ms that is decided as one: a unit, or a mutation
// that stands alone, as ms[from:to].
func EachUnit(ms []Mutation, fn func(from, to int) error) error {
	for from := 0; from < len(ms); {
		to := from + 1
		for ms[from].Unit != 0 && to < len(ms) && ms[to].Unit == ms[from].Unit {
			to++
		}
		if err := fn(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// Verdict is what the server decided about a mutation of a [Batch].
type Verdict struct {
	// N is the mutation's number.
	N int64
	// Outcome is what became of it. Of a repetition, Row and Meta are as they are now, and
	// Changed and Before are not set.
	Outcome
	// Repeated says that it was decided before.
	Repeated bool
}

// Ledger is what a server remembers of one client's mutations, for ever: the highest
// number, and the verdicts that the client has not confirmed. A driver stores it as text (see
// [Ledger.AppendJSON]), in the transaction of the mutations' effects.
type Ledger struct {
	Owner     string    `json:"owner,omitempty"` // of the client, from its first push on; "" for none
	Highest   int64     `json:"highest"`         // the number of the last mutation decided
	Confirmed int64     `json:"confirmed"`       // verdicts up to this number are no longer kept
	Receipts  []Receipt `json:"receipts,omitempty"`
}

// Receipt is a verdict as it is remembered, without the row.
type Receipt struct {
	Digest  uint64 `json:"d"`           // of the mutation
	Applied bool   `json:"a,omitempty"` // whether it was applied
	Err     *Error `json:"e,omitempty"` // why it was refused, nil when it was not
}

// NewLedger returns the ledger of a client that pushes b first: it may begin with any number.
func NewLedger(b *Batch) *Ledger {
	return &Ledger{Owner: b.Owner, Highest: b.Mutations[0].N - 1, Confirmed: b.Mutations[0].N - 1}
}

// Admit checks b against the ledger and returns how many of its first mutations are
// repetitions, whose verdicts are in Receipt. Errors: those of [Batch.Check];
// [CodeDenied] for another owner; [CodeGap] when numbers are missing between the ledger and b;
// [CodeRepeated] when a repetition has other content, or its verdict is no longer kept. The client
// then takes another name, and pushes what has no verdict under that.
func (l *Ledger) Admit(b *Batch) (repeated int, err error) {
	if err := b.Check(); err != nil {
		return 0, err
	}
	if l.Owner != b.Owner {
		return 0, NewError(CodeDenied, "the client is somebody else's")
	}
	first := b.Mutations[0].N
	if first > l.Highest+1 {
		return 0, NewError(CodeGap, "the last mutation known is %d", l.Highest)
	}
	for ; repeated < len(b.Mutations) && b.Mutations[repeated].N <= l.Highest; repeated++ {
		n := b.Mutations[repeated].N
		if r := l.Receipt(n); r == nil || r.Digest != b.digest(repeated) {
			return 0, NewError(CodeRepeated, "mutation %d was another one", n)
		}
	}
	return repeated, nil
}

// Receipt returns what is remembered of mutation n, nil when nothing is.
func (l *Ledger) Receipt(n int64) *Receipt {
	i := n - l.Confirmed - 1
	if i < 0 || i >= int64(len(l.Receipts)) {
		return nil
	}
	return &l.Receipts[i]
}

// maxReceipts bounds the verdicts that are kept for a client that confirms none: each push reads and writes them all.
const maxReceipts = 10_000

// Record notes the outcomes of b.Mutations from number l.Highest+1 on, and forgets what the client has confirmed, and
// the oldest beyond some ten thousand.
func (l *Ledger) Record(b *Batch, outs []Outcome) {
	skip := len(b.Mutations) - len(outs)
	for i := range outs {
		l.Receipts = append(l.Receipts, Receipt{Digest: b.digest(skip + i), Applied: outs[i].Applied, Err: WireErrorOf(outs[i].Err)})
	}
	l.Highest += int64(len(outs))
	most := max(maxReceipts, 2*len(b.Mutations)) // a client has two batches on their way
	if done := max(l.Confirmed, min(b.Confirmed, l.Highest), l.Highest-int64(most)) - l.Confirmed; done > 0 {
		l.Confirmed += done
		l.Receipts = slices.Clone(l.Receipts[min(done, int64(len(l.Receipts))):])
	}
}

// WireErrorOf is [WireError] that keeps nil.
func WireErrorOf(e *Error) *Error {
	if e == nil {
		return nil
	}
	return WireError(e)
}

// Forget drops the verdicts, for a client that was not heard of for long.
func (l *Ledger) Forget() { l.Confirmed, l.Receipts = l.Highest, nil }

// AppendJSON appends the text that a driver stores, which is what json.Marshal makes of the ledger:
// each push reads and writes one, with hundreds of receipts.
func (l *Ledger) AppendJSON(b []byte) []byte {
	b = slices.Grow(b, 64+len(l.Owner)+40*len(l.Receipts))
	b = append(b, '{')
	if l.Owner != "" {
		b = append(AppendString(append(b, `"owner":`...), l.Owner), ',')
	}
	b = appendInt(append(b, `"highest":`...), l.Highest)
	b = appendInt(append(b, `,"confirmed":`...), l.Confirmed)
	for i := range l.Receipts {
		if i == 0 {
			b = append(b, `,"receipts":[`...)
		} else {
			b = append(b, ',')
		}
		b = l.Receipts[i].appendJSON(b)
	}
	if len(l.Receipts) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func (r *Receipt) appendJSON(b []byte) []byte {
	b = strconv.AppendUint(append(b, `{"d":`...), r.Digest, 10)
	if r.Applied {
		b = append(b, `,"a":true`...)
	}
	if r.Err != nil {
		e, _ := json.Marshal(r.Err) // of strings
		b = append(append(b, `,"e":`...), e...)
	}
	return append(b, '}')
}

// ParseLedger reads the text that a driver has stored, AppendJSON's.
func ParseLedger(text []byte) (*Ledger, error) {
	l := &Ledger{}
	err := EachField(text, func(key, value []byte) (err error) {
		switch string(key) {
		case "owner":
			l.Owner, err = DecodeString(value)
		case "highest":
			l.Highest, err = parseInteger(value)
		case "confirmed":
			l.Confirmed, err = parseInteger(value)
		case "receipts":
			l.Receipts, err = parseReceipts(value)
		}
		return err
	})
	if err != nil {
		return nil, Wrap(err, CodeInternal, "a ledger is damaged")
	}
	return l, nil
}

func parseReceipts(raw []byte) ([]Receipt, error) {
	list := make([]Receipt, 0, len(raw)/24)
	if bytes.HasPrefix(raw, []byte("[")) {
		for rest, ok := raw[1:], true; ok; {
			var r Receipt
			if r, rest, ok = cutReceipt(rest); !ok {
				break
			}
			list = append(list, r)
			if string(rest) == "]" {
				return list, nil
			}
			rest, ok = bytes.CutPrefix(rest, []byte(","))
		}
	}
	list = list[:0] // one of them is not as nearly all are
	err := EachElement(raw, func(_ int, raw []byte) error {
		r, err := parseReceipt(raw)
		list = append(list, r)
		return err
	})
	return list, err
}

// cutReceipt reads a receipt that is as AppendJSON writes it, and has no error.
func cutReceipt(b []byte) (r Receipt, rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(`{"d":`)); !ok {
		return r, nil, false
	}
	n := 0
	for ; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		digit := uint64(b[n] - '0')
		if r.Digest > (math.MaxUint64-digit)/10 {
			return r, nil, false
		}
		r.Digest = r.Digest*10 + digit
	}
	b, r.Applied = bytes.CutPrefix(b[n:], []byte(`,"a":true`))
	rest, ok = bytes.CutPrefix(b, []byte("}"))
	return r, rest, ok && n > 0
}

func parseReceipt(raw []byte) (r Receipt, err error) {
	err = EachField(raw, func(key, value []byte) (err error) {
		switch string(key) {
		case "d":
			r.Digest, err = strconv.ParseUint(string(value), 10, 64)
		case "a":
			r.Applied, err = strconv.ParseBool(string(value))
		case "e":
			err = json.Unmarshal(value, &r.Err)
		}
		return err
	})
	return r, err
}

// Digest is a hash of what the mutation does, without its stamp: a client whose
// clock was wrong may push the same again with a better one.
func (m *Mutation) Digest() uint64 {
	h := fnv.New64a()
	sep := []byte{byte(m.Op), 0}
	for _, part := range [][]byte{sep, []byte(m.Model), sep[1:], []byte(m.UID), sep[1:], m.Data} {
		_, _ = h.Write(part) // it returns no error
	}
	return h.Sum64()
}
