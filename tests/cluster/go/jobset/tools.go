//go:build tools

// Package tools names what is built, so that the lock holds what it needs.
package tools

import (
	_ "sigs.k8s.io/jobset"
)
