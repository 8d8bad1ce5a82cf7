package tidemark_test

import (
	"testing"

	"github.com/tidemark-sync/tidemark"
)

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{ // whether refused beside two attachments
		`1`:                             false,
		`"_placeholder"`:                false,
		`null`:                          false,
		``:                              false,
		`{"num":7}`:                     false,
		`{"_placeholder":false}`:        false,
		`{"_placeholder":1,"num":5}`:    false,
		`{"_placeholder":true,"num":0}`: false,
		`[[{"a":{"_placeholder":true,"num":1}}]]`:                         false,
		`{"_placeholder":true,"num":2}`:                                   true,
		`{"_placeholder":true,"num":-1}`:                                  true,
		`{"_placeholder":true,"num":0.5}`:                                 true,
		`{"_placeholder":true,"num":"0"}`:                                 true,
		`{"_placeholder":true,"num":99999999999999999999}`:                true,
		`{"_placeholder":true}`:                                           true,
		`{"\u005fplaceholder":true}`:                                      true,
		`[1,{"a":[{"_placeholder":true,"num":9}]}]`:                       true,
		`{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":3}}`: true,
	} {
		err := tidemark.CheckPlaceholders([]byte(text), 2)
		if got := tidemark.CodeOf(err) == tidemark.CodeInvalidData; got != want {
			t.Errorf("%s: got %v", text, err)
		}
	}
	for _, n := range []int{0, 9, 10} {
		if got, ok := tidemark.ParsePlaceholder(tidemark.Placeholder(n)); !ok || got != n {
			t.Errorf("placeholder %d is read as %d, %t", n, got, ok)
		}
	}
}
