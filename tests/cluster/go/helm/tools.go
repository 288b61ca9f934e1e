//go:build tools

// Package tools names what is built, so that the lock holds what it needs.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
