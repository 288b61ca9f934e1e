//go:build tools

// Package tools names what is built, so that the lock holds what it needs.
package tools

import (
	_ "github.com/ray-project/kuberay/ray-operator"
)
