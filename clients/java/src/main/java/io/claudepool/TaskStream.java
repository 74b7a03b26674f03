package io.claudepool;

import io.claudepool.v1.Event;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.concurrent.TimeUnit;

/**
 * A task's events, each once, over however many connections. To be closed when it is left before
 * its end. What it throws is a {@link ClaudepoolException}.
 */
public final class TaskStream implements Iterable<Event>, Iterator<Event>, AutoCloseable {
  /** Longest time for which a broken stream is taken up again without an answer. */
  private static final Duration RECONNECT = Duration.ofSeconds(30);

  /** The same before the server has answered at all. */
  private static final Duration CONNECT = Duration.ofSeconds(5);

  private static final long FIRST_PAUSE_MS = 100;
  private static final long LONGEST_PAUSE_MS = 2000;

  /** A message of either RPC; one of the two is null. */
  record Item(Event event, String accepted) {}

  /** Begins the call anew. */
  interface Attach {
    Iterator<Item> after(long sequence);
  }

  private final Attach attach;
  private final Deadline deadline;
  private volatile String taskId;
  private long sequence;
  private Context.CancellableContext call;
  private Iterator<Item> items;
  private Event next;
  private boolean ended;
  private boolean attached;
  private long pause = FIRST_PAUSE_MS;
  /** When it broke; 0: it did not. */
  private long brokenAt;

  TaskStream(Attach attach, String taskId, long afterSequence, Deadline deadline) {
    this.attach = attach;
    this.taskId = taskId;
    this.sequence = afterSequence;
    this.deadline = deadline;
  }

  /** The task's id; empty until the server has told it. */
  public String taskId() {
    return taskId;
  }

  @Override
  public Iterator<Event> iterator() {
    return this;
  }

  @Override
  public boolean hasNext() {
    while (next == null && !ended) {
      try {
        step();
      } catch (StatusRuntimeException error) {
        lost(ClaudepoolException.of(error));
      }
    }
    return next != null;
  }

  @Override
  public Event next() {
    if (!hasNext()) {
      throw new NoSuchElementException();
    }
    Event event = next;
    next = null;
    if (event.hasFinished()) {
      close();
    }
    return event;
  }

  /** Ends the call. */
  @Override
  public void close() {
    ended = true;
    hangUp();
  }

  private void hangUp() {
    if (call != null) {
      call.cancel(null);
      call = null;
      items = null;
    }
  }

  private void step() {
    if (items == null) {
      call = Context.current().withCancellation();
      Context before = call.attach();
      try {
        items = attach.after(sequence);
      } finally {
        call.detach(before);
      }
    }
    if (!items.hasNext()) {
      lost(ClaudepoolException.endedEarly());
      return;
    }
    Item item = items.next();
    attached = true;
    pause = FIRST_PAUSE_MS;
    brokenAt = 0;
    if (item.accepted() != null) {
      taskId = item.accepted();
    } else if (item.event() != null && item.event().getSequence() > sequence) {
      sequence = item.event().getSequence();
      next = item.event();
    }
  }

  /** Waits for the next try, if there is one. */
  private void lost(ClaudepoolException broken) {
    hangUp();
    // A server that restarts says so, and is worth waiting for.
    attached |= List.of("DRAINING", "STARTING").contains(broken.reason());
    Duration patience = attached ? RECONNECT : CONNECT;
    if (brokenAt == 0) {
      brokenAt = System.nanoTime();
    }
    if (!broken.mendable(attached) || System.nanoTime() - brokenAt > patience.toNanos()) {
      ended = true;
      throw broken;
    }
    long wait = Math.max(pause, broken.retryAfter().map(Duration::toMillis).orElse(0L));
    if (deadline != null) {
      wait = Math.min(wait, Math.max(deadline.timeRemaining(TimeUnit.MILLISECONDS), 0));
    }
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    try {
      Thread.sleep(wait);
    } catch (InterruptedException interrupted) {
      ended = true;
      Thread.currentThread().interrupt();
      throw ClaudepoolException.of(Status.CANCELLED.withCause(interrupted).asRuntimeException());
    }
  }
}
