package client

import (
	"context"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
)

// name returns the client's name, under which the server knows its outbox. It is
// made when it is first needed, and stays with the store.
func (c *Client) name(ctx context.Context) (string, error) {
	var name string
	err := c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		raw, err := tx.Load(keyName)
		if err != nil || tidemark.CheckUID(string(raw)) == nil {
			name = string(raw)
			return err
		}
		id, err := uuid.NewRandom()
		if err != nil {
			return err
		}
		name = id.String()
		return tx.Save(keyName, []byte(name))
	})
	return name, err
}

// met is told what the server knows of this client and which time it is there, before
// anything is pushed on the connection.
func (s *session) met(ctx context.Context, a *tidemark.OpenAnswer) error { return nil }
