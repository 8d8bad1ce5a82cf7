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
	databases(t, func(t *testing.T, dsn string) {
		g := startGuide(t, dsn)
		conn, _, err := websocket.DefaultDialer.Dial("ws://"+g.addr+"/socket.io/?EIO=4&transport=websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		script, err := os.ReadFile(filepath.Join("testdata", "offline-client.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(script)), "\n") {
			side, frame, _ := strings.Cut(line, " ")
			switch side {
			case "C":
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
			}
		}
		if _, got, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived) {
			t.Errorf("after goodbye: %s, %v", got, err)
		}
	})
}
