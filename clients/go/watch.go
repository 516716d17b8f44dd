// SPDX-License-Identifier: Apache-2.0

package virtblock

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

const (
	watchPauseFirst = 100 * time.Millisecond
	watchPauseMax   = 5 * time.Second
)

// Watch shows every change of state of block jobs once and in order, over as many streams as it takes: when the connection
// breaks, the server restarts or the reader was too slow, it goes on by itself where it was. One goroutine reads it at a time.
type Watch struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelFunc
	request *pb.WatchBlockJobsRequest
	stream  interface {
		Recv() (*pb.WatchBlockJobsResponse, error)
	}
	// What is to be shown before the stream is read again: a whole snapshot, or the first event.
	pending      []*pb.BlockJobEvent
	inSnapshot   bool
	reached      bool
	lastSequence int64
	failures     int
	token        atomic.Value
}

// WatchBlockJobs opens a watch and waits until the server has registered it: a job that is started afterwards cannot be missed.
// It lives until Close or the end of ctx. A server that cannot be reached now is an error at once; later the watch bears it.
func (c *Client) WatchBlockJobs(ctx context.Context, request *pb.WatchBlockJobsRequest) (*Watch, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watch{client: c, ctx: ctx, cancel: cancel, request: proto.CloneOf(request), lastSequence: -1}
	w.token.Store(request.GetResumeToken())
	if err := w.establish(); err != nil {
		cancel()
		return nil, fromCall(err, c.target, pb.BlockJobService_WatchBlockJobs_FullMethodName)
	}
	return w, nil
}

// ResumeToken goes on after the last event that was shown, in WatchBlockJobsRequest.ResumeToken, in another process as well.
// Empty: nothing was shown yet that one can go on after.
func (w *Watch) ResumeToken() string { return w.token.Load().(string) }

// Close ends the watch. A Next that waits ends with ERR_OPERATION_ABORTED.
func (w *Watch) Close() { w.cancel() }

// All iterates the events until the watch fails or ctx ends; the last pair then holds the error.
func (w *Watch) All() iter.Seq2[*pb.BlockJobEvent, error] {
	return func(yield func(*pb.BlockJobEvent, error) bool) {
		for {
			event, err := w.Next()
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Next waits for the next change of a job, or progress where the request asked for it.
func (w *Watch) Next() (*pb.BlockJobEvent, error) {
	for {
		for len(w.pending) > 0 {
			event := w.pending[0]
			w.pending = w.pending[1:]
			if event.GetResumeToken() != "" {
				w.token.Store(event.GetResumeToken())
			}
			if event.GetJob() != nil || event.GetProgress() != nil {
				return event, nil
			}
		}
		if err := w.receive(); err != nil {
			if err := w.reopen(err); err != nil {
				return nil, err
			}
		}
	}
}

// establish waits for the first event or a whole snapshot.
func (w *Watch) establish() error {
	err := w.open()
	for err == nil {
		if err = w.receive(); err == nil || !w.reached {
			return err
		}
		err = w.reopen(err)
	}
	return err
}

func (w *Watch) open() error {
	stream, err := w.client.Jobs.WatchBlockJobs(w.ctx, w.request)
	w.stream, w.inSnapshot = stream, w.request.GetIncludeSnapshot() && w.request.GetResumeToken() == ""
	return err
}

// receive takes messages until there is something to show. A snapshot counts only as a whole, because a token from its middle
// would lose the rest of it.
func (w *Watch) receive() error {
	var snapshot []*pb.BlockJobEvent
	for {
		answer, err := w.stream.Recv()
		if err != nil {
			return err
		}
		event := answer.GetEvent()
		w.failures, w.reached = 0, true
		if !w.inSnapshot {
			w.takeLive(event)
			return nil
		}
		if event.GetBookmark().GetSnapshotEnd() {
			w.inSnapshot, w.lastSequence = false, event.GetSequence()
			w.request.ResumeToken, w.request.IncludeSnapshot = event.GetResumeToken(), false
			w.pending = append(snapshot, event)
			return nil
		}
		if event.GetJob() != nil {
			event.ResumeToken = ""
			snapshot = append(snapshot, event)
		}
	}
}

func (w *Watch) takeLive(event *pb.BlockJobEvent) {
	if event.GetJob() != nil && event.GetSequence() <= w.lastSequence {
		// The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
		return
	}
	if event.GetResumeToken() != "" {
		w.request.ResumeToken, w.request.IncludeSnapshot = event.GetResumeToken(), false
	}
	if event.GetProgress() == nil {
		w.lastSequence = max(w.lastSequence, event.GetSequence())
	}
	w.pending = append(w.pending, event)
}

// reopen opens the next stream after one that ended by err, or gives the error when another one would not help.
func (w *Watch) reopen(err error) error {
	for {
		if w.ctx.Err() != nil {
			return fromCall(w.ctx.Err(), w.client.target, pb.BlockJobService_WatchBlockJobs_FullMethodName)
		}
		if !helpsToRetry(err) {
			return fromCall(err, w.client.target, pb.BlockJobService_WatchBlockJobs_FullMethodName)
		}
		pause := min(watchPauseFirst<<min(w.failures, 10), watchPauseMax)
		w.failures++
		select {
		// Half of it at random, so that all clients of a restarted server do not come back at the same moment.
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-w.ctx.Done():
			continue
		}
		if err = w.open(); err == nil {
			return nil
		}
	}
}

func helpsToRetry(err error) bool {
	var failed *Error
	if err == io.EOF {
		return true
	}
	if !errors.As(err, &failed) {
		return false
	}
	code := failed.GRPCStatus().Code()
	if code == codes.Unavailable || failed.Reason == ReasonSlowReader {
		return true
	}
	// A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
	return failed.Reason == "" && (code == codes.Canceled || code == codes.ResourceExhausted)
}
