package tidemark_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

func TestRequestEnvelopesAreChecked(t *testing.T) {
	t.Parallel()
	r, err := tidemark.ParseRequest([]byte(`{"name":"__proto__","action":"constructor","args":[1,null],"more":0}`))
	if err != nil || r.Name != "__proto__" || r.Action != "constructor" || len(r.Args) != 2 || string(r.Args[1]) != "null" {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, raw := range []string{
		`null`, `7`, `"x"`, `[]`, `{}`, ``, `{"name":"a","action":"b"}`, `{"name":"a","action":"b","args":null}`, `{"name":"a","action":"b","args":{}}`,
		`{"name":1,"action":"b","args":[]}`, `{"name":"a","action":null,"args":[]}`, `{"Name":"a","Action":"b","Args":[]}`, `{"name":"a","action":"b","args":[`,
	} {
		if _, err := tidemark.ParseRequest([]byte(raw)); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("%s: got %v, want invalid-request", raw, err)
		}
	}
}

func TestAnswersOnTheWire(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]tidemark.Answer{
		`{}`:               {},
		`{"result":null}`:  {Result: json.RawMessage("null")},
		`{"result":"<&>"}`: {Result: json.RawMessage(`"<&>"`)},
		`{"error":{"code":"constraint","message":"title is required","field":"title","kind":"required"}}`: {Err: &tidemark.Error{
			Code: tidemark.CodeConstraint, Message: "title is required", Field: "title", Kind: tidemark.ConstraintRequired}},
	} {
		got, err := a.MarshalJSON()
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		var back tidemark.Answer
		if err := back.UnmarshalJSON(got); err != nil || fmt.Sprint(back) != fmt.Sprint(a) {
			t.Errorf("%s reads back as %+v, %v", got, back, err)
		}
	}
}

type sqlError struct{}

func (sqlError) Error() string    { return `duplicate key value violates "post_pkey"` }
func (sqlError) SQLState() string { return "23505" }

func TestErrorsKeepTheirSecrets(t *testing.T) {
	t.Parallel()
	coded := tidemark.NewError("my-code", "coded error")
	for _, c := range []struct {
		err           error
		code, message string
	}{
		{fmt.Errorf("while saving: %w", coded), "my-code", "coded error"},
		{errors.New("something went wrong"), "unknown-error", "something went wrong"},
		{sqlError{}, "internal", "internal error"},
		{fmt.Errorf("saving: %w", sqlError{}), "internal", "internal error"},
		{tidemark.Wrap(sqlError{}, tidemark.CodeConstraint, "title is taken"), "constraint", "title is taken"},
		{tidemark.Wrap(sqlError{}, tidemark.CodeInternal, "select * from post"), "internal", "internal error"},
	} {
		got := tidemark.WireError(c.err)
		if string(got.Code) != c.code || got.Message != c.message || errors.Unwrap(got) != nil || strings.Contains(got.Error(), "post") {
			t.Errorf("%v: got %v", c.err, got)
		}
	}
	if !errors.Is(tidemark.Wrap(sqlError{}, tidemark.CodeConstraint, "x"), sqlError{}) {
		t.Error("the cause is lost")
	}
}

func TestTheDictionaryImportsNothingButTheStandardLibrary(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range src.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") && path != "github.com/google/uuid" {
				t.Errorf("%s imports %s", f, path)
			}
		}
	}
}
