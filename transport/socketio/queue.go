package socketio

import "github.com/tidemark-sync/tidemark"

// frame is one websocket message on its way out.
type frame struct {
	data   []byte
	binary bool // an attachment
	free   bool // does not count
}

// queue holds the frames that wait behind the one being written. That one does
// not count: a peer that is busy receiving something big is not slow. Nor does
// what a resumed session missed: it was bounded where it was kept. The owner's lock
// protects a queue.
type queue struct {
	limit  int // bytes that may wait
	frames []frame
	next   int // index of the first frame that waits
	bytes  int
}

// admits reports whether size more bytes may wait. Any one message may when none does.
func (q *queue) admits(size int) bool { return q.bytes == 0 || q.bytes+size <= q.limit }

func (q *queue) push(f frame) {
	q.frames = append(q.frames, f)
	if !f.free {
		q.bytes += len(f.data)
	}
}

// pushMessage queues the frames of m, which stay together.
func (q *queue) pushMessage(m *tidemark.Message) { q.pushFrames(m, false) }

// pushReplay is pushMessage for what does not count.
func (q *queue) pushReplay(m *tidemark.Message) { q.pushFrames(m, true) }

func (q *queue) pushFrames(m *tidemark.Message, free bool) {
	q.push(frame{data: m.Frame(encode), free: free})
	for _, a := range m.Attachments {
		q.push(frame{data: a, binary: true, free: free})
	}
}

func (q *queue) pop() (frame, bool) {
	if q.next == len(q.frames) {
		return frame{}, false
	}
	f := q.frames[q.next]
	q.frames[q.next] = frame{}
	q.next++
	if !f.free {
		q.bytes -= len(f.data)
	}
	if q.next == len(q.frames) {
		q.clear()
	}
	return f, true
}

// clear drops what waits. A long list is let go: most connections are idle.
func (q *queue) clear() {
	if cap(q.frames) > 16 {
		q.frames = nil
	}
	clear(q.frames)
	q.frames, q.next, q.bytes = q.frames[:0], 0, 0
}

func sizeOf(m *tidemark.Message) int {
	n := len(m.Frame(encode))
	for _, a := range m.Attachments {
		n += len(a)
	}
	return n
}
