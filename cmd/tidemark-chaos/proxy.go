package main

import (
	"io"
	"net"
	"sync"
)

// proxy stands between a client and the server, and can part them: by refusing and cutting
// connections, or by swallowing what they say.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex // protects what follows
	conns map[net.Conn]struct{}
	mode  partition
	let   chan struct{} // closed when nothing is swallowed any more
}

type partition int

const (
	connected partition = iota
	severed             // connections are cut and refused
	silent              // connections stand, and nothing arrives
)

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, conns: map[net.Conn]struct{}{}, let: make(chan struct{})}
	close(p.let)
	go p.serve()
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.carry(c)
	}
}

func (p *proxy) carry(c net.Conn) {
	defer c.Close()
	if p.current() == severed {
		return
	}
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer s.Close()
	p.keep(c, s)
	defer p.drop(c, s)
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{c, s}, {s, c}} {
		go func() {
			_, _ = io.Copy(slow{pair[1], p}, pair[0])
			done <- struct{}{}
		}()
	}
	<-done
}

// slow is a connection that takes nothing while the proxy is silent.
type slow struct {
	net.Conn
	p *proxy
}

func (s slow) Write(b []byte) (int, error) {
	s.p.mu.Lock()
	let := s.p.let
	s.p.mu.Unlock()
	<-let
	return s.Conn.Write(b)
}

func (p *proxy) current() partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *proxy) keep(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// set parts the two sides, or joins them.
func (p *proxy) set(mode partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == silent {
		close(p.let)
	}
	if mode == silent {
		p.let = make(chan struct{})
	}
	p.mode = mode
	if mode == severed {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}
