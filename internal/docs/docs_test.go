// Package docs_test holds the documentation to what it promises.
package docs_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExportsAreDocumented looks at every exported name of every package that
// users can import: each must say what it is, each package must,
// and a comment on a function or type begins with its name.
func TestExportsAreDocumented(t *testing.T) {
	t.Parallel()
	var c count
	for _, dir := range packages(t) {
		c.pkg(t, dir)
	}
	if c.all < 300 {
		t.Fatalf("only %d exported names were found", c.all)
	}
	if len(c.missing) > 0 {
		t.Errorf("%d of %d exported names have no comment:\n%s", len(c.missing), c.all, strings.Join(c.missing, "\n"))
	}
}

const root = "../.."

// packages returns the folders of the packages that others may import.
func packages(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (name == "internal" || name == "examples" || name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			found[filepath.Dir(path)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for dir := range found {
		dirs = append(dirs, dir)
	}
	return dirs
}

// count is how many names there are, and which say nothing.
type count struct {
	all     int
	missing []string
}

func (c *count) name(pkg, name, comment string) {
	c.all++
	if strings.TrimSpace(comment) == "" {
		c.missing = append(c.missing, pkg+"."+name)
	}
}

func (c *count) pkg(t *testing.T, dir string) {
	t.Helper()
	fset := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 || f.Name.Name == files[0].Name.Name {
			files = append(files, f)
		}
	}
	path, err := filepath.Rel(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := doc.NewFromFiles(fset, files, path)
	if err != nil {
		t.Fatal(err)
	}
	if p.Doc == "" {
		t.Errorf("package %s has no comment", path)
	}
	if p.Name == "main" {
		return
	}
	c.values(path, p.Consts)
	c.values(path, p.Vars)
	c.funcs(t, path, "", p.Funcs)
	for _, typ := range p.Types {
		c.typ(t, path, typ)
	}
}

func (c *count) typ(t *testing.T, pkg string, typ *doc.Type) {
	c.name(pkg, typ.Name, typ.Doc)
	begins(t, pkg, typ.Name, typ.Name, typ.Doc)
	c.values(pkg, typ.Consts)
	c.values(pkg, typ.Vars)
	c.funcs(t, pkg, "", typ.Funcs)
	c.funcs(t, pkg, typ.Name+".", typ.Methods)
	for _, s := range typ.Decl.Specs {
		switch x := s.(*ast.TypeSpec).Type.(type) {
		case *ast.StructType:
			c.fields(pkg, typ.Name, x.Fields, true)
		case *ast.InterfaceType:
			c.fields(pkg, typ.Name, x.Methods, false)
		}
	}
}

// fields counts the fields of a struct, of which neighbours may share a comment,
// or the methods of an interface.
func (c *count) fields(pkg, owner string, list *ast.FieldList, shared bool) {
	above := ""
	for i, f := range list.List {
		comment := f.Doc.Text() + f.Comment.Text()
		if comment == "" && shared && i > 0 {
			comment = above
		}
		above = comment
		for _, n := range f.Names {
			if n.IsExported() {
				c.name(pkg, owner+"."+n.Name, comment)
			}
		}
	}
}

// values counts constants and variables: a comment above a group is for all of it.
func (c *count) values(pkg string, values []*doc.Value) {
	for _, v := range values {
		for _, s := range v.Decl.Specs {
			spec := s.(*ast.ValueSpec)
			for _, n := range spec.Names {
				if n.IsExported() {
					c.name(pkg, n.Name, v.Doc+spec.Doc.Text()+spec.Comment.Text())
				}
			}
		}
	}
}

// plain are methods whose name says it all: those of well known interfaces.
var plain = map[string]bool{"String": true, "Error": true, "Unwrap": true, "MarshalJSON": true, "UnmarshalJSON": true, "ServeHTTP": true}

func (c *count) funcs(t *testing.T, pkg, owner string, funcs []*doc.Func) {
	for _, f := range funcs {
		if plain[f.Name] && f.Doc == "" {
			continue
		}
		c.name(pkg, owner+f.Name, f.Doc)
		begins(t, pkg, owner+f.Name, f.Name, f.Doc)
	}
}

func begins(t *testing.T, pkg, full, name, comment string) {
	if comment == "" {
		return
	}
	for _, article := range []string{"", "A ", "An ", "The "} {
		if strings.HasPrefix(comment, article+name) {
			return
		}
	}
	t.Errorf("%s.%s: the comment begins with %.30q", pkg, full, comment)
}

// TestLinksLeadSomewhere follows the relative links of all pages.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
		return nil
	})
	if err != nil || seen < 20 {
		t.Errorf("%d links, %v", seen, err)
	}
}
