import com.azure.messaging.eventhubs.CheckpointStore;
import com.azure.messaging.eventhubs.models.Checkpoint;
import com.azure.messaging.eventhubs.models.PartitionOwnership;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

/**
 * Ownerships and checkpoints in memory: processors of one JVM share them.
 *
 * <p>Every list is read when it is subscribed to: the load balancer subscribes to one list again and again, and would spin for ever over
 * an old one.
 */
final class MemoryCheckpointStore implements CheckpointStore {
    private final Map<String, PartitionOwnership> ownerships = new ConcurrentHashMap<>();
    private final Map<String, Checkpoint> checkpoints = new ConcurrentHashMap<>();

    List<String> owners() {
        List<String> owners = new ArrayList<>();
        ownerships.values().forEach(ownership -> owners.add(ownership.getOwnerId()));
        return owners;
    }

    @Override
    public Flux<PartitionOwnership> listOwnership(String namespace, String eventHub, String group) {
        return Flux.defer(() -> Flux.fromIterable(new ArrayList<>(ownerships.values())));
    }

    @Override
    public Flux<PartitionOwnership> claimOwnership(List<PartitionOwnership> requested) {
        List<PartitionOwnership> claimed = new ArrayList<>();
        for (PartitionOwnership wanted : requested) {
            PartitionOwnership now = ownerships.compute(wanted.getPartitionId(), (partition, held) ->
                held != null && !Objects.equals(held.getETag(), wanted.getETag())
                    ? held
                    : wanted.setETag(UUID.randomUUID().toString()).setLastModifiedTime(System.currentTimeMillis()));
            if (now == wanted) {
                claimed.add(wanted);
            }
        }
        return Flux.fromIterable(claimed);
    }

    @Override
    public Flux<Checkpoint> listCheckpoints(String namespace, String eventHub, String group) {
        return Flux.defer(() -> Flux.fromIterable(new ArrayList<>(checkpoints.values())));
    }

    @Override
    public Mono<Void> updateCheckpoint(Checkpoint checkpoint) {
        checkpoints.put(checkpoint.getPartitionId(), checkpoint);
        return Mono.empty();
    }
}
