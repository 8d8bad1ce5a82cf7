package sim

import (
	"path"
	"reflect"
	"unsafe"
)

// holdings are what a part keeps in memory: by type and field, how many elements its maps,
// slices and channels have. Nothing is listed here by name: what is new in the code is counted too.
type holdings map[string]int

// heldBy returns what root keeps, in types of its package and of the root package; what was handed to
// it is not its own. Call it while everything is at rest.
func heldBy(root any) holdings {
	v := reflect.ValueOf(root)
	c := counter{held: holdings{}, home: v.Type().Elem().PkgPath(), seen: map[unsafe.Pointer]bool{}}
	c.count("", v)
	return c.held
}

type counter struct {
	held holdings
	home string
	seen map[unsafe.Pointer]bool
}

// own reports whether values of a type belong to the part.
func (c *counter) own(t reflect.Type) bool {
	switch t.PkgPath() {
	case "", c.home, path.Dir(c.home), "container/list":
		return true
	}
	return false
}

func (c *counter) count(name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || v.Elem().Kind() != reflect.Struct || c.seen[v.UnsafePointer()] {
			return
		}
		c.seen[v.UnsafePointer()] = true
		c.count(name, v.Elem())
	case reflect.Interface:
		if !v.IsNil() {
			c.count(name, v.Elem())
		}
	case reflect.Struct:
		if t := v.Type(); c.own(t) {
			for i := range v.NumField() {
				c.count(t.String()+"."+t.Field(i).Name, v.Field(i))
			}
		}
	case reflect.Map:
		c.held[name] += v.Len()
		for it := v.MapRange(); it.Next(); {
			c.count(name+" key", it.Key())
			c.count(name+" value", it.Value())
		}
	case reflect.Slice:
		c.held[name] += v.Len()
		if v.Type().Elem().Kind() != reflect.Uint8 {
			for i := range v.Len() {
				c.count(name+" element", v.Index(i))
			}
		}
	case reflect.Chan:
		c.held[name] += v.Len()
	}
}
