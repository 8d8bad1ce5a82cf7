package main

import (
	"time"

	"github.com/uptrace/bun"
)

// Post is the guide's model.
type Post struct {
	bun.BaseModel `bun:"table:post"`

	UID     string  `bun:"uid,pk,type:text"`
	Title   string  `bun:"title,type:text,notnull"`
	Content *string `bun:"content,type:text"`
}

// Item has a column of each common type.
type Item struct {
	bun.BaseModel `bun:"table:item"`

	UID    string     `bun:"uid,pk,type:text"`
	Label  string     `bun:"label,type:text,notnull"`
	Score  *int64     `bun:"score"`
	Ratio  *float64   `bun:"ratio"`
	Active *bool      `bun:"active"`
	Start  *time.Time `bun:"start,type:timestamp"`
	Note   *string    `bun:"note,type:text"`
}

var models = []any{(*Post)(nil), (*Item)(nil)}
