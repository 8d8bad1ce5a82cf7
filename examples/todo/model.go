package main

import "github.com/uptrace/bun"

// One struct serves both halves: its bun tags make the table of the server, its
// json tags name the columns that a device keeps. UIDs are UUIDs of version 7,
// so rows that are sorted by uid are in the order of their creation.

// List is a named list of items.
type List struct {
	bun.BaseModel `bun:"table:list" json:"-"`

	UID  string `bun:"uid,pk" json:"uid"`
	Name string `bun:"name,notnull" json:"name"`
}

// Item is one line of a list. The index is for devices: it makes "the items of
// this list" quick however many lists there are.
type Item struct {
	bun.BaseModel `bun:"table:item" json:"-"`

	UID     string `bun:"uid,pk" json:"uid"`
	ListUID string `bun:"list_uid,notnull" json:"list_uid" tidemark:"index"`
	Title   string `bun:"title,notnull" json:"title"`
	Done    bool   `bun:"done,notnull" json:"done"`
}
