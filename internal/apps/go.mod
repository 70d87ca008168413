module github.com/exactlimit/exactlimit/internal/apps

go 1.25.0

replace github.com/exactlimit/exactlimit => ../..
