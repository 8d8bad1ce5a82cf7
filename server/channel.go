package server

import (
	"maps"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// set is a set of sessions with an order, so that equal histories send in equal order.
type set struct {
	list  []*Session
	index map[*Session]int
}

func (s *set) add(x *Session) {
	if _, in := s.index[x]; in {
		return
	}
	if s.index == nil {
		s.index = make(map[*Session]int)
	}
	s.index[x] = len(s.list)
	s.list = append(s.list, x)
}

func (s *set) remove(x *Session) {
	i, in := s.index[x]
	if !in {
		return
	}
	last := len(s.list) - 1
	s.list[i] = s.list[last]
	s.index[s.list[i]] = i
	s.list[last] = nil
	s.list = s.list[:last]
	delete(s.index, x)
}

// channels are the named groups of sessions.
type channels struct {
	remains *remains // does not change

	mu       sync.RWMutex // protects what follows, and Session.channels of all sessions
	groups   map[string]*set
	position uint64 // of the last event
}

func (c *channels) join(name string, s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.channels == nil { // the session has ended
		return
	}
	if _, in := s.channels[name]; !in {
		c.enter(name, s, c.position)
	}
}

// rejoin puts s into channels, as if it had joined them at those positions.
func (c *channels) rejoin(positions map[string]uint64, s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, at := range positions {
		c.enter(name, s, at)
	}
}

func (c *channels) enter(name string, s *Session, at uint64) {
	g := c.groups[name]
	if g == nil {
		if c.groups == nil {
			c.groups = make(map[string]*set)
		}
		g = &set{}
		c.groups[name] = g
	}
	g.add(s)
	s.channels[name] = at
}

func (c *channels) leave(name string, s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part(name, s)
}

// leaveAll takes s out of all channels, for good, and returns them with the
// positions at which it had joined.
func (c *channels) leaveAll(s *Session) map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := s.channels
	s.channels = nil
	for name := range left {
		c.part(name, s)
	}
	return left
}

func (c *channels) part(name string, s *Session) {
	delete(s.channels, name)
	g := c.groups[name]
	if g == nil {
		return
	}
	if g.remove(s); len(g.list) == 0 {
		delete(c.groups, name)
	}
}

func (c *channels) of(s *Session) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.channels))
}

// members returns the union of the channels, each session once.
func (c *channels) members(names []string) []*Session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.union(names)
}

// next is members for an event, to which it gives the next position.
func (c *channels) next(names []string) (members []*Session, at uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.position++
	return c.union(names), c.position
}

func (c *channels) union(names []string) []*Session {
	if len(names) == 1 {
		if g := c.groups[names[0]]; g != nil {
			return slices.Clone(g.list)
		}
		return nil
	}
	var union set
	for _, name := range names {
		if g := c.groups[name]; g != nil {
			for _, s := range g.list {
				union.add(s)
			}
		}
	}
	return union.list
}

// send sends m, which is not sent yet, to the union of the channels. Nobody is waited
// for. A session that cannot take it is closed by its transport and hears of it there.
func (c *channels) send(names []string, m *tidemark.Message, about topic) {
	c.remains.broadcast(names, m, about)
}

// hears reports whether events about something reach s by channels.
func (s *Session) hears(about topic) bool { return about != models || !s.scoped.Load() }

// whileStill calls do with a function that tells whether somebody is in a channel;
// nobody comes or goes meanwhile.
func (c *channels) whileStill(do func(inUse func(name string) bool)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	do(func(name string) bool { return c.groups[name] != nil })
}
