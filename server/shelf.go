package server

import (
	"container/list"
	"maps"
	"slices"
	"time"
)

// former is what is kept of a session that ended.
type former struct {
	id       string
	private  string            // the name by which its client can resume it; empty on a server without recovery
	token    string            // by which a page that was loaded anew can take it over; empty when it gave none
	channels map[string]uint64 // with the position at which the session joined
	data     map[string]any
	scoped   bool // it heard of models by its scopes
	wrong    int  // tokens that were tried in vain
}

// Former is what a session that ended leaves to the one that takes its place.
type Former struct {
	// ID was the session's public name.
	ID string
	// Channels are the channels that it was in, sorted, without the one of its own name.
	Channels []string
	// Data is what the application kept with Session.Set.
	Data map[string]any
}

func (f *former) export() *Former {
	x := &Former{ID: f.id, Data: maps.Clone(f.data), Channels: slices.Sorted(maps.Keys(f.channels))}
	x.Channels = slices.DeleteFunc(x.Channels, func(name string) bool { return name == f.id })
	return x
}

// shelf keeps former sessions by a key, each for the same time, and at most so
// many: the oldest goes first. Its owner's lock protects it.
type shelf struct {
	age   time.Duration
	limit int
	byKey map[string]*list.Element
	all   list.List // of *shelved, oldest first
}

type shelved struct {
	key     string
	former  *former
	expires time.Time
}

func (s *shelf) put(key string, f *former, now time.Time) {
	s.take(key, now)
	if s.all.Len() >= s.limit {
		s.remove(s.all.Front())
	}
	if s.byKey == nil {
		s.byKey = make(map[string]*list.Element)
	}
	s.byKey[key] = s.all.PushBack(&shelved{key, f, now.Add(s.age)})
}

// get returns what is kept under key, nil when there is nothing.
func (s *shelf) get(key string, now time.Time) *former {
	e := s.byKey[key]
	if e == nil || !now.Before(e.Value.(*shelved).expires) {
		return nil
	}
	return e.Value.(*shelved).former
}

// take is get, after which it is kept no longer.
func (s *shelf) take(key string, now time.Time) *former {
	f := s.get(key, now)
	if e := s.byKey[key]; e != nil {
		s.remove(e)
	}
	return f
}

func (s *shelf) remove(e *list.Element) {
	delete(s.byKey, e.Value.(*shelved).key)
	s.all.Remove(e)
}

// sweep drops what is too old.
func (s *shelf) sweep(now time.Time) {
	for e := s.all.Front(); e != nil && !now.Before(e.Value.(*shelved).expires); e = s.all.Front() {
		s.remove(e)
	}
}
