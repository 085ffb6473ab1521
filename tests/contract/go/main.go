// Lifecycle runs a task's whole life against a server, as a Go program of a user would: it knows nothing of the
// service but its contract. It exits with status 0 if all was as the contract says. With a task type it is a worker
// instead, until a task tells it to stop.
//
//	lifecycle <target> <workspace_id> [<task type>]    the secret is in OPENMCP_WORKSPACE_SECRET
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"lifecycle/contract"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 || len(os.Args) > 4 {
		log.Fatal("usage: lifecycle <target> <workspace_id> [<task type>]")
	}
	taskType := ""
	if len(os.Args) == 4 {
		taskType = os.Args[3]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Getenv("OPENMCP_WORKSPACE_SECRET"), taskType); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, target, workspace, secret, taskType string) error {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()

	token, err := contract.NewAuthServiceClient(conn).Authenticate(ctx, &contract.AuthRequest{
		WorkspaceId: workspace, WorkspaceSecret: secret,
	})
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	if left := time.Until(token.ExpiresAt.AsTime()); left <= 0 {
		return fmt.Errorf("authenticate: the token ended %v ago", -left)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.Token)

	if taskType != "" {
		return work(ctx, contract.NewWorkerServiceClient(conn), taskType)
	}
	tasks := contract.NewTaskServiceClient(conn)
	if err := live(ctx, tasks, workspace); err != nil {
		return err
	}
	if err := fail(ctx, tasks); err != nil {
		return err
	}
	return newer()
}

// live submits a task, follows it to its end and reads its result.
func live(ctx context.Context, tasks contract.TaskServiceClient, workspace string) error {
	payload, err := structpb.NewStruct(map[string]any{
		"text": "héllo", "list": []any{1.5, nil, true}, "deep": map[string]any{"$where": "a.b"},
	})
	if err != nil {
		return err
	}
	summary, err := tasks.SubmitTask(ctx, &contract.SubmitTaskRequest{
		WorkspaceId: workspace, Type: "echo", Payload: payload, Metadata: map[string]string{"priority": "high"},
	})
	if err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	if summary.Status != contract.TaskStatus_TASK_STATUS_PENDING {
		return fmt.Errorf("submit: status %v", summary.Status)
	}

	stream, err := tasks.StreamTaskEvents(ctx, &contract.StreamTaskEventsRequest{TaskId: summary.TaskId})
	if err != nil {
		return fmt.Errorf("stream: %w", err)
	}
	var seen []contract.TaskStatus
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("stream: %w", err)
		}
		seen = append(seen, event.Status)
		if event.TaskId != summary.TaskId || int(event.Sequence) != len(seen) {
			return fmt.Errorf("stream: event %v", event)
		}
	}
	if got := fmt.Sprint(seen); got != "[TASK_STATUS_PENDING TASK_STATUS_RUNNING TASK_STATUS_SUCCEEDED]" {
		return fmt.Errorf("stream: %s", got)
	}

	detail, err := tasks.GetTask(ctx, &contract.GetTaskRequest{TaskId: summary.TaskId})
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if detail.Status != contract.TaskStatus_TASK_STATUS_SUCCEEDED || !proto.Equal(detail.Result, payload) {
		return fmt.Errorf("get: %v", detail)
	}
	return nil
}

// fail asks for a task that isn't there, and reads the error's details.
func fail(ctx context.Context, tasks contract.TaskServiceClient) error {
	_, err := tasks.GetTask(ctx, &contract.GetTaskRequest{TaskId: "task-1f7f"})
	failed := status.Convert(err)
	if failed.Code() != codes.NotFound {
		return fmt.Errorf("get of no task: %v", err)
	}
	var ours *contract.Error
	var info *errdetails.ErrorInfo
	for _, detail := range failed.Details() {
		switch known := detail.(type) {
		case *contract.Error:
			ours = known
		case *errdetails.ErrorInfo:
			info = known
		}
	}
	if ours.GetCode() != "TASK_NOT_FOUND" || ours.GetMessage() != "Task task-1f7f does not exist" {
		return fmt.Errorf("details: %v", failed.Details())
	}
	if info.GetReason() != ours.Code || info.GetDomain() != "openmcp.chain" {
		return fmt.Errorf("details: %v", failed.Details())
	}
	return nil
}

// newer reads a status that this client does not know, and writes it as it was.
func newer() error {
	sent := &contract.TaskDetail{TaskId: "1", Status: contract.TaskStatus(99)}
	wire, err := proto.Marshal(sent)
	if err != nil {
		return err
	}
	read := &contract.TaskDetail{}
	if err := proto.Unmarshal(wire, read); err != nil {
		return fmt.Errorf("unknown status: %w", err)
	}
	if read.Status.String() != "99" || !proto.Equal(sent, read) {
		return fmt.Errorf("unknown status: %v", read)
	}
	return nil
}
