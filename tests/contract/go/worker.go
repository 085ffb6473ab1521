package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/types/known/structpb"

	"lifecycle/contract"
)

// work is a worker on the stream: it doubles `n`, says how far it is, stops what is cancelled, and ends with the task
// that says "stop".
func work(ctx context.Context, workers contract.WorkerServiceClient, taskType string) error {
	stream, err := workers.Work(ctx)
	if err != nil {
		return fmt.Errorf("work: %w", err)
	}
	hello := &contract.Hello{WorkerName: "gopher", WorkerVersion: "1.2.3", TaskTypes: []string{taskType}, MaxConcurrency: 2}
	if err := stream.Send(&contract.WorkRequest{Message: &contract.WorkRequest_Hello{Hello: hello}}); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	stop := ""
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("work: %w", err)
		}
		switch message := response.Message.(type) {
		case *contract.WorkResponse_Task:
			task := message.Task
			payload := task.Payload.AsMap()
			progress := &contract.TaskProgress{Fraction: 0.5, Message: "halfway"}
			requests := []*contract.WorkRequest{{Message: &contract.WorkRequest_Heartbeat{
				Heartbeat: &contract.Heartbeat{Lease: task.Lease, Progress: progress},
			}}}
			if payload["wait"] != true { // else it waits to be cancelled
				n, _ := payload["n"].(float64)
				result, err := structpb.NewStruct(map[string]any{"doubled": 2 * n})
				if err != nil {
					return err
				}
				requests = append(requests, &contract.WorkRequest{Message: &contract.WorkRequest_Complete{
					Complete: &contract.Complete{Lease: task.Lease, Result: result},
				}})
			}
			if payload["stop"] == true {
				stop = task.Lease.LeaseToken
			}
			for _, request := range requests {
				if err := stream.Send(request); err != nil {
					return fmt.Errorf("report: %w", err)
				}
			}
		case *contract.WorkResponse_Cancel:
			stopped := &contract.Stopped{Lease: message.Cancel.Lease}
			if err := stream.Send(&contract.WorkRequest{Message: &contract.WorkRequest_Stopped{Stopped: stopped}}); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
		case *contract.WorkResponse_Ack:
			if message.Ack.ErrorCode != "" {
				return fmt.Errorf("ack: %v", message.Ack)
			}
			if message.Ack.Kind == contract.ReportKind_REPORT_KIND_COMPLETE && message.Ack.Lease.LeaseToken == stop {
				if err := stream.CloseSend(); err != nil {
					return fmt.Errorf("close: %w", err)
				}
			}
		}
	}
}
