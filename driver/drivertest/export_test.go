package drivertest

import "strings"

// Names are the names of all checks, as tests have them.
func Names() (names []string) {
	for _, c := range all() {
		names = append(names, strings.ReplaceAll(c.name, " ", "_"))
	}
	return names
}
