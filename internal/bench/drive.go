package main

import (
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// checkService checks that a service admits exactly checkedMax requests of a client, and that its responses have the
// fields of the contender.
func checkService(j job, exe string) error {
	j.Check = true
	server, err := j.start(exe)
	if err != nil {
		return err
	}
	defer server.stop()
	var where address
	if err := server.read(&where); err != nil {
		return err
	}
	for _, path := range []string{"/", "/left"} {
		conn, err := dial(where.Addr)
		if err != nil {
			return err
		}
		defer conn.close()
		for i := range checkedMax + 2 {
			admitted, err := conn.send(request(path, "check"+path))
			if err != nil {
				return err
			}
			if admitted != (i < checkedMax) {
				return fmt.Errorf("request %d of a client with a limit of %d: admitted is %v",
					i+1, checkedMax, admitted)
			}
			if !admitted {
				continue
			}
			for _, field := range where.Fields {
				if !conn.has(field) {
					return fmt.Errorf("the response has no field %s:\n%s", field, conn.response)
				}
			}
			if left, err := conn.remaining(); path == "/left" && (err != nil || left != checkedMax-1-i) {
				return fmt.Errorf("in the response to request %d, %d requests remain: %v", i+1, left, err)
			}
		}
	}
	return nil
}

// serviceTurn sends requests to a service, and then compares the remaining budgets of clients with the requests that
// were admitted. Requests that were counted without Redis, or for another client, are missing in the budgets.
func serviceTurn(j job, exe string, s setup, bare bool) (turn, error) {
	server, err := j.start(exe)
	if err != nil {
		return turn{}, err
	}
	defer server.stop()
	var where address
	if err := server.read(&where); err != nil {
		return turn{}, err
	}
	requests := make([][]byte, clients)
	for i, key := range numbered("key-%05d", clients) {
		requests[i] = request("/", key)
	}
	admitted := make([]atomic.Int32, clients)
	warm, err := drive(where.Addr, requests, admitted, 0, j.Length/5)
	if err != nil {
		return turn{}, err
	}
	var reported turn
	if err := errors.Join(server.proceed(), server.read(&reported)); err != nil {
		return turn{}, err
	}
	busy, err := redisCPU(j.Addrs)
	if err != nil {
		return turn{}, err
	}
	t, err := drive(where.Addr, requests, admitted, warm.Requests/connections, j.Length-j.Length/5)
	if err != nil {
		return turn{}, err
	}
	after, err := redisCPU(j.Addrs)
	if err != nil {
		return turn{}, err
	}
	if err := errors.Join(server.proceed(), server.read(&reported)); err != nil {
		return turn{}, err
	}
	t.RedisCPU, t.DeniedBefore = after-busy, warm.Denied
	t.Mallocs, t.Diagnostics = reported.Mallocs, reported.Diagnostics
	if !bare {
		missing, of, err := audit(where.Addr, admitted, s.max)
		if err != nil {
			return turn{}, err
		}
		t.Local = t.Requests * missing / max(1, of)
	}
	return t, nil
}

// audit compares the remaining budgets of some clients with their admitted requests. It returns how many of these are
// missing in the budgets.
func audit(addr string, admitted []atomic.Int32, limit int) (missing, of int, err error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, 0, err
	}
	defer conn.close()
	for _, i := range rand.Perm(len(admitted))[:500] {
		ok, err := conn.send(request("/left", fmt.Sprintf("key-%05d", i)))
		if err != nil || !ok {
			return 0, 0, fmt.Errorf("a client was not admitted after the turn: %v", err)
		}
		left, err := conn.remaining()
		if err != nil {
			return 0, 0, err
		}
		n := int(admitted[i].Load())
		of += n
		charged := limit - left - 1 // without the request to /left
		missing += max(n-charged, charged-n)
	}
	return missing, of, nil
}

// drive sends requests over all connections, without a pause. Each connection begins at a different request, and skip
// requests further.
func drive(addr string, requests [][]byte, admitted []atomic.Int32, skip int, length time.Duration) (turn, error) {
	var (
		stop    atomic.Bool
		senders sync.WaitGroup
		turns   [connections]turn
		errs    [connections]error
		opened  [connections]*conn
	)
	for i := range opened {
		var err error
		if opened[i], err = dial(addr); err != nil {
			return turn{}, err
		}
		defer opened[i].close()
	}
	runtime.GC()
	start := time.Now()
	for i, conn := range opened {
		senders.Go(func() {
			t := &turns[i]
			for next := i*len(requests)/connections + skip; !stop.Load(); next++ {
				next %= len(requests)
				sent := time.Now()
				ok, err := conn.send(requests[next])
				t.samples = append(t.samples, time.Since(sent))
				if err != nil {
					errs[i] = err
					stop.Store(true)
					return
				}
				t.Requests++
				if ok {
					admitted[next].Add(1)
				} else {
					t.Denied++
				}
			}
		})
	}
	timer := time.AfterFunc(length, func() { stop.Store(true) })
	senders.Wait()
	timer.Stop()
	sum := turn{Elapsed: time.Since(start)}
	for i := range turns {
		sum.Requests += turns[i].Requests
		sum.Denied += turns[i].Denied
		sum.samples = append(sum.samples, turns[i].samples...)
	}
	sum.summarize()
	return sum, errors.Join(errs[:]...)
}
