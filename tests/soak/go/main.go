// The Go processors of the soak: two of them print a line for each event until the program is killed.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs"
)

// memoryStore keeps ownerships and checkpoints in memory: the two processors of this program share it.
type memoryStore struct {
	lock        sync.Mutex
	ownerships  map[string]azeventhubs.Ownership
	checkpoints map[string]azeventhubs.Checkpoint
}

func (s *memoryStore) ClaimOwnership(_ context.Context, wanted []azeventhubs.Ownership, _ *azeventhubs.ClaimOwnershipOptions) ([]azeventhubs.Ownership, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	var claimed []azeventhubs.Ownership
	for _, ownership := range wanted {
		held, found := s.ownerships[ownership.PartitionID]
		if found && (ownership.ETag == nil || held.ETag == nil || *held.ETag != *ownership.ETag) {
			continue
		}
		tag := azcore.ETag(random())
		ownership.ETag = &tag
		ownership.LastModifiedTime = time.Now().UTC()
		s.ownerships[ownership.PartitionID] = ownership
		claimed = append(claimed, ownership)
	}
	return claimed, nil
}

func (s *memoryStore) ListOwnership(context.Context, string, string, string, *azeventhubs.ListOwnershipOptions) ([]azeventhubs.Ownership, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	var all []azeventhubs.Ownership
	for _, ownership := range s.ownerships {
		all = append(all, ownership)
	}
	return all, nil
}

func (s *memoryStore) ListCheckpoints(context.Context, string, string, string, *azeventhubs.ListCheckpointsOptions) ([]azeventhubs.Checkpoint, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	var all []azeventhubs.Checkpoint
	for _, checkpoint := range s.checkpoints {
		all = append(all, checkpoint)
	}
	return all, nil
}

func (s *memoryStore) SetCheckpoint(_ context.Context, checkpoint azeventhubs.Checkpoint, _ *azeventhubs.SetCheckpointOptions) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.checkpoints[checkpoint.PartitionID] = checkpoint
	return nil
}

func random() string {
	bytes := make([]byte, 8)
	_, _ = rand.Read(bytes)
	return hex.EncodeToString(bytes)
}

var output sync.Mutex

func main() {
	store := &memoryStore{ownerships: map[string]azeventhubs.Ownership{}, checkpoints: map[string]azeventhubs.Checkpoint{}}
	var running sync.WaitGroup
	for number := 1; number <= 2; number++ {
		name := fmt.Sprintf("go-%d", number)
		running.Add(1)
		go func() {
			defer running.Done()
			if err := run(name, store, os.Args[1], os.Args[2]); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
				os.Exit(1)
			}
		}()
	}
	running.Wait()
}

func run(name string, store azeventhubs.CheckpointStore, connection, group string) error {
	client, err := azeventhubs.NewConsumerClientFromConnectionString(connection, "", group, nil)
	if err != nil {
		return err
	}
	earliest := true
	processor, err := azeventhubs.NewProcessor(client, store, &azeventhubs.ProcessorOptions{
		UpdateInterval:              5 * time.Second,
		PartitionExpirationDuration: 15 * time.Second,
		StartPositions:              azeventhubs.StartPositions{Default: azeventhubs.StartPosition{Earliest: &earliest}},
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			partition := processor.NextPartitionClient(context.Background())
			if partition == nil {
				return
			}
			go read(name, partition)
		}
	}()
	return processor.Run(context.Background())
}

// read ends with the ownership of its partition, or with the link; the processor then claims the partition again.
func read(name string, partition *azeventhubs.ProcessorPartitionClient) {
	defer partition.Close(context.Background())
	for {
		waiting, cancel := context.WithTimeout(context.Background(), time.Second)
		events, err := partition.ReceiveEvents(waiting, 100, nil)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			fmt.Fprintf(os.Stderr, "%s: partition %s: %v\n", name, partition.PartitionID(), err)
			return
		}
		for _, event := range events {
			output.Lock()
			fmt.Println(name, partition.PartitionID(), event.SequenceNumber, event.SystemProperties["iothub-connection-device-id"], string(event.Body))
			output.Unlock()
		}
		if len(events) > 0 {
			if err := partition.UpdateCheckpoint(context.Background(), events[len(events)-1], nil); err != nil {
				fmt.Fprintf(os.Stderr, "%s: checkpoint: %v\n", name, err)
			}
		}
	}
}
