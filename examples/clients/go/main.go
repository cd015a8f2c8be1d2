// Appends the events of a room file, and prints the last of them.
//
// Usage: go run . ADDRESS ROOM.ndjson
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	pb "example.org/backscroll-client/gen/backscroll/history/v1"
)

type line struct {
	Room struct {
		RoomID      string `json:"room_id"`
		RoomVersion string `json:"room_version"`
	} `json:"room"`
	EventID    string          `json:"event_id"`
	PDU        json.RawMessage `json:"pdu"`
	Outlier    bool            `json:"outlier"`
	Rejected   bool            `json:"rejected"`
	SoftFailed bool            `json:"soft_failed"`
	StateAfter []string        `json:"state_after"`
}

func check[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// The default limit of 4 MiB for a response is enough.
	credentials := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn := check(grpc.NewClient(os.Args[1], credentials))
	defer conn.Close()
	stream := check(pb.NewIngestServiceClient(conn).AppendEvents(ctx))
	room, last := line{}.Room, ""
	for _, text := range bytes.Split(bytes.TrimSpace(check(os.ReadFile(os.Args[2]))), []byte("\n")) {
		var it line
		check(it, json.Unmarshal(text, &it))
		if it.EventID == "" {
			room = it.Room
			continue
		}
		request := &pb.AppendEventsRequest{RoomId: room.RoomID, RoomVersion: room.RoomVersion, EventId: it.EventID,
			Pdu: it.PDU, Outlier: it.Outlier, StateAfter: it.StateAfter, Verdict: pb.Verdict_VERDICT_ACCEPTED}
		if it.Rejected {
			request.Verdict = pb.Verdict_VERDICT_REJECTED
		} else if it.SoftFailed {
			request.Verdict = pb.Verdict_VERDICT_SOFT_FAILED
		}
		check(it, stream.Send(request))
		// Sent when the event is on disk. A fast client sends many events before it reads responses.
		response := check(stream.Recv())
		if refusal := response.GetRefusal(); refusal != nil {
			fmt.Println("refused:", response.EventId, refusal.Reason, refusal.Message)
		} else {
			last = response.EventId
		}
	}
	// Without a requester, this is a request of an internal caller: no event is hidden.
	request := &pb.BackfillRequest{RoomId: room.RoomID, EventIds: []string{last}, Limit: proto.Uint32(5)}
	page := check(pb.NewHistoryServiceClient(conn).Backfill(ctx, request))
	var pdus []struct{ Type, Sender string }
	check(pdus, json.Unmarshal(page.Pdus, &pdus))
	for index, pdu := range pdus {
		fmt.Println(page.EventIds[index], pdu.Type, pdu.Sender)
	}
	fmt.Println("ended because of", page.EndReason)
}
