package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// A recorded session of an offline client, frame by frame.
func TestAnOfflineClientsSessionIsAnsweredAsRecorded(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) { replay(t, startGuide(t, dsn).addr, "offline-client.txt") })
}

// A recorded session of the second protocol: opening, a first pass, pushes with a resend, live
// changes, catch-up, and what is refused.
func TestASessionOfTheSecondProtocolIsAnsweredAsRecorded(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) { replay(t, startGuide(t, dsn).addr, "second-protocol.txt") })
}

// told are texts of the server's that a client says again: %cursor% in its frames is the last one.
var told = regexp.MustCompile(`"(cursor|tag)":"([^"]*)"`)

func replay(t *testing.T, addr, file string) {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(script)), "\n") {
		side, frame, _ := strings.Cut(line, " ")
		switch side {
		case "C":
			for name, text := range last {
				frame = strings.ReplaceAll(frame, "%"+name+"%", text)
			}
			if err := conn.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
				t.Fatal(err)
			}
		case "S":
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			_, got, err := conn.ReadMessage()
			want := "^" + strings.ReplaceAll(regexp.QuoteMeta(frame), `\*`, ".*") + "$"
			if err != nil || !regexp.MustCompile(want).Match(got) {
				t.Fatalf("the server said %s, %v; want %s", got, err, frame)
			}
			for _, m := range told.FindAllSubmatch(got, -1) {
				last[string(m[1])] = string(m[2])
			}
		}
	}
	if _, got, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived) {
		t.Errorf("after goodbye: %s, %v", got, err)
	}
}
