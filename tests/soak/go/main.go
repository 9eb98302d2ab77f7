// The Go processors of the soak: two of them print a line for each event until the program is killed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/checkpoints"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

var output sync.Mutex

func main() {
	store, err := checkpointStore(os.Getenv("HOLDFAST_SOAK_BLOBS"), os.Args[2]+"-checkpoints")
	if err != nil {
		fmt.Fprintf(os.Stderr, "the container of the checkpoints: %v\n", err)
		os.Exit(1)
	}
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

// checkpointStore makes the container: both processors of this program use it.
func checkpointStore(connection, name string) (azeventhubs.CheckpointStore, error) {
	// `Processor.Run` ends at the first call of the store that fails. The retries outlast the restart of the node that serves the blobs.
	options := container.ClientOptions{ClientOptions: policy.ClientOptions{Retry: policy.RetryOptions{MaxRetries: 20, MaxRetryDelay: 2 * time.Second}}}
	blobs, err := container.NewClientFromConnectionString(connection, name, &options)
	if err != nil {
		return nil, err
	}
	if _, err := blobs.Create(context.Background(), nil); err != nil {
		return nil, err
	}
	return checkpoints.NewBlobStore(blobs, nil)
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
