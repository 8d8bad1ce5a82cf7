package logstore

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/tidemark-sync/tidemark"
)

// version is the first line of a log. A program that writes what this one cannot
// read gives it another number, and this one then leaves the file alone.
const version = "tidemark log 1\n"

// log is the file: after its first line one line for each update, with a checksum
// in front. An update that a crash cut short leaves a line without its end or
// with a wrong sum; there can be one, and it is the last.
type log struct {
	file *os.File
	size int64 // where the last whole line ends
	bad  error // the disk failed: what it would say now cannot be trusted
}

// openLog reads the log at path and writes it anew, without what has been undone
// since. So the file is as long as what it says after every start.
func openLog(path string) (*log, *state, error) {
	st, err := read(path)
	if err != nil {
		return nil, nil, fmt.Errorf("logstore: %s: %w", path, err)
	}
	l, err := create(path, st)
	if err != nil {
		return nil, nil, fmt.Errorf("logstore: %w", err)
	}
	return l, st, nil
}

// read does all changes of the log again.
func read(path string) (*state, error) {
	st := (&state{}).own()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return &st, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	first, err := r.ReadString('\n')
	switch same := len(version) - 2; {
	case first == version:
	case err == nil && len(first) >= len(version) && first[:same] == version[:same]:
		return nil, tidemark.ErrNewerFile
	default:
		return nil, tidemark.ErrDamaged
	}
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return &st, nil // what stands behind the last newline was cut short
		}
		if err != nil {
			return nil, err
		}
		cs, whole := parse(line)
		if _, end := r.Peek(1); !whole && end == io.EOF {
			return &st, nil // as above: a disk may write the end of a line before its middle
		}
		if !whole {
			return nil, tidemark.ErrDamaged
		}
		for _, c := range cs {
			st.apply(c)
		}
	}
}

// create writes a log that says st, and puts it in the place of the one at path:
// whole or not at all.
func create(path string, st *state) (*log, error) {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	l := &log{file: f, size: int64(len(version))}
	if _, err = f.WriteString(version); err == nil {
		err = l.append(st.changes())
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path)) // or a power failure brings the old name back
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// append writes one line and returns when it is on the disk. When that fails the
// line must not come back after a restart, for its update has failed.
func (l *log) append(cs []change) error {
	if l.bad != nil {
		return l.bad
	}
	line, err := encode(cs)
	if err != nil {
		return err
	}
	if _, err = l.file.WriteAt(line, l.size); err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.bad = errors.Join(err, l.file.Truncate(l.size), l.file.Sync())
		return l.bad
	}
	l.size += int64(len(line))
	return nil
}

func encode(cs []change) ([]byte, error) {
	text, err := json.Marshal(cs)
	return fmt.Appendf(nil, "%s %s\n", checksum(text), text), err
}

// parse returns the changes of a line, and whether the line is whole.
func parse(line []byte) (cs []change, whole bool) {
	sum, text, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	return cs, string(sum) == checksum(text) && json.Unmarshal(text, &cs) == nil
}

func checksum(text []byte) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) }

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
