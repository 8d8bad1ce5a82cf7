package server_test

import (
	"testing"
)

func TestCreateThenSync(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	c := b.dial()
	want := `[{"uid":"a","title":"x","owner":null,"likes":null,"due":null},{"uid":"a","created_at":"` + at(-9) + `","updated_at":null,"deleted_at":null}]`
	equal(t, c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(-9)), want)
	equalList(t, c.events(), []string{"createWithMeta " + want})
	equal(t, c.result("sync", "go", "post", map[string]any{}, map[string]any{}),
		`{"addClient":[`+want+`],"updateClient":[],"deleteClient":[],"addDatabase":[],"updateDatabase":[]}`)
}
