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
	mu     sync.RWMutex // protects groups, and Session.channels of all sessions
	groups map[string]*set
}

func (c *channels) join(name string, s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.channels == nil { // the session has ended
		return
	}
	g := c.groups[name]
	if g == nil {
		if c.groups == nil {
			c.groups = make(map[string]*set)
		}
		g = &set{}
		c.groups[name] = g
	}
	g.add(s)
	s.channels[name] = struct{}{}
}

func (c *channels) leave(name string, s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part(name, s)
}

// leaveAll takes s out of all channels, for good.
func (c *channels) leaveAll(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range s.channels {
		c.part(name, s)
	}
	s.channels = nil
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

// send sends m to the union of the channels. No lock is held while sending. A
// session that cannot take it is closed by its transport and hears of it there.
func (c *channels) send(names []string, m *tidemark.Message) {
	for _, s := range c.members(names) {
		_ = s.send(m)
	}
}
