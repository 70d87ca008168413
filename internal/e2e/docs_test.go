package e2e

import (
	"go/ast"
	"go/doc"
	"go/parser"
	gotoken "go/token"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
)

// Every exported name of the packages that services import has a comment, and every function and method an Example.
func TestEverythingIsDocumented(t *testing.T) {
	dirs := []string{"core"}
	for _, adapter := range adapters.All {
		dirs = append(dirs, adapter.Dir)
	}
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
		require.NoError(t, err)
		fset := gotoken.NewFileSet()
		var files []*ast.File
		for _, name := range names {
			file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
			require.NoError(t, err)
			files = append(files, file)
		}
		p, err := doc.NewFromFiles(fset, files, "github.com/exactlimit/exactlimit/"+dir)
		require.NoError(t, err)
		functions := func(receiver string, all []*doc.Func) {
			for _, f := range all {
				assert.NotEmpty(t, f.Doc, "%s: %s%s has no comment", dir, receiver, f.Name)
				assert.NotEmpty(t, f.Examples, "%s: %s%s has no Example", dir, receiver, f.Name)
			}
		}
		assert.NotEmpty(t, p.Doc, dir)
		functions("", p.Funcs)
		for _, typ := range p.Types {
			assert.NotEmpty(t, typ.Doc, "%s: %s has no comment", dir, typ.Name)
			functions("", typ.Funcs)
			functions(typ.Name+".", typ.Methods)
		}
	}
}
