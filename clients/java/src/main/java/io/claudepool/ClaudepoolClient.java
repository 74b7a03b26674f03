package io.claudepool;

import com.google.gson.Gson;
import io.claudepool.v1.CatalogServiceGrpc;
import io.claudepool.v1.CatalogServiceGrpc.CatalogServiceBlockingStub;
import io.claudepool.v1.ContextServiceGrpc;
import io.claudepool.v1.ContextServiceGrpc.ContextServiceBlockingStub;
import io.claudepool.v1.Event;
import io.claudepool.v1.OperatorServiceGrpc;
import io.claudepool.v1.OperatorServiceGrpc.OperatorServiceBlockingStub;
import io.claudepool.v1.PoolServiceGrpc;
import io.claudepool.v1.PoolServiceGrpc.PoolServiceBlockingStub;
import io.claudepool.v1.RunStreamRequest;
import io.claudepool.v1.SubmitRequest;
import io.claudepool.v1.TaskResult;
import io.claudepool.v1.TaskSpec;
import io.claudepool.v1.WatchTaskRequest;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Iterator;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * The helpers, and the stubs of every service. A request that creates work and has no request_id
 * gets one, so that the channel may send it again. What a stub throws is read by {@link
 * ClaudepoolException#of}.
 */
public final class ClaudepoolClient implements AutoCloseable {
  private final ManagedChannel managed;
  private final Channel channel;

  /** A client of the server at http://host:port, https://host:port, host:port or unix:/path. */
  public static ClaudepoolClient connect(String address) {
    return connect(address, null, null);
  }

  /**
   * As {@link #connect(String)}.
   *
   * @param token sent with every call, over TLS or loopback only; null: none
   * @param tls how to do TLS; null: an https address trusts the system's roots
   */
  public static ClaudepoolClient connect(String address, String token, ChannelCredentials tls) {
    return new ClaudepoolClient(address, token, tls);
  }

  private ClaudepoolClient(String address, String token, ChannelCredentials tls) {
    boolean unix = address.startsWith("unix:");
    int at = unix ? -1 : address.indexOf("://");
    String scheme = unix ? "unix" : at >= 0 ? address.substring(0, at) : tls != null ? "https" : "http";
    String target = (at >= 0 ? address.substring(at + 3) : address).replaceAll("/$", "");
    ChannelCredentials credentials;
    switch (scheme) {
      case "https" -> credentials = tls != null ? tls : TlsChannelCredentials.create();
      case "http", "unix" -> credentials = InsecureChannelCredentials.create();
      default -> throw new IllegalArgumentException(
          address + ": say http://host:port, https://host:port or unix:/path");
    }
    if (token != null && scheme.equals("http") && !target.matches("(localhost|127\\.[\\d.]+|\\[::1])(:\\d+)?")) {
      throw new IllegalArgumentException("a token is sent over TLS or loopback only: say https://");
    }
    managed =
        Grpc.newChannelBuilder(target, credentials)
            .defaultServiceConfig(serviceConfig())
            .intercept(new EveryCall(token))
            // A connection that has died silently is found out.
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(20, TimeUnit.SECONDS)
            .build();
    channel = managed;
  }

  @SuppressWarnings("unchecked")
  private static Map<String, ?> serviceConfig() {
    var resource = ClaudepoolClient.class.getResourceAsStream("service-config.json");
    try (var reader = new InputStreamReader(resource, StandardCharsets.UTF_8)) {
      return new Gson().fromJson(reader, Map.class);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** The task that this text is. */
  public static TaskSpec prompt(String text) {
    return TaskSpec.newBuilder().setPrompt(text).build();
  }

  /** As {@link #run(TaskSpec, Duration)}, without a deadline. */
  public TaskResult run(TaskSpec task) {
    return run(task, null);
  }

  /**
   * Runs a task and gives its result. A task that failed is an answer too: see its failure.
   *
   * @param timeout past it the task is cancelled; null: none
   */
  public TaskResult run(TaskSpec task, Duration timeout) {
    try (TaskStream stream = runStream(task, timeout)) {
      for (Event event : stream) {
        if (event.hasFinished()) {
          return event.getFinished().getResult();
        }
      }
    }
    throw ClaudepoolException.endedEarly();
  }

  /** As {@link #runStream(TaskSpec, Duration)}, without a deadline. */
  public TaskStream runStream(TaskSpec task) {
    return runStream(task, null);
  }

  /**
   * Runs a task and gives its events. A broken connection is taken up again; the task waits for
   * that a few seconds. Closing the stream early cancels the task.
   */
  public TaskStream runStream(TaskSpec task, Duration timeout) {
    var request = RunStreamRequest.newBuilder().setTask(task).setRequestId(UUID.randomUUID().toString());
    Deadline deadline = deadline(timeout);
    return new TaskStream(
        after ->
            map(
                pool(deadline).runStream(request.setAfterSequence(after).build()),
                answer ->
                    new TaskStream.Item(
                        answer.hasEvent() ? answer.getEvent() : null,
                        answer.hasAccepted() ? answer.getAccepted().getTaskId() : null)),
        "",
        0,
        deadline);
  }

  /** As {@link #watch(String, long, Duration)}, from the beginning, without a deadline. */
  public TaskStream watch(String taskId) {
    return watch(taskId, 0, null);
  }

  /** A task's events after a sequence, each once, until the task ends. */
  public TaskStream watch(String taskId, long afterSequence, Duration timeout) {
    var request = WatchTaskRequest.newBuilder().setTaskId(taskId);
    Deadline deadline = deadline(timeout);
    return new TaskStream(
        after ->
            map(
                pool(deadline).watchTask(request.setAfterSequence(after).build()),
                answer -> new TaskStream.Item(answer.hasEvent() ? answer.getEvent() : null, null)),
        taskId,
        afterSequence,
        deadline);
  }

  /** Makes a task durable and gives its id. It runs once, however often the call had to be sent. */
  public String submit(TaskSpec task) {
    try {
      return pool().submit(SubmitRequest.newBuilder().setTask(task).build()).getTaskId();
    } catch (StatusRuntimeException error) {
      throw ClaudepoolException.of(error);
    }
  }

  public PoolServiceBlockingStub pool() {
    return PoolServiceGrpc.newBlockingStub(channel);
  }

  public OperatorServiceBlockingStub operator() {
    return OperatorServiceGrpc.newBlockingStub(channel);
  }

  public CatalogServiceBlockingStub catalog() {
    return CatalogServiceGrpc.newBlockingStub(channel);
  }

  public ContextServiceBlockingStub context() {
    return ContextServiceGrpc.newBlockingStub(channel);
  }

  /** For stubs of other kinds. */
  public Channel channel() {
    return channel;
  }

  @Override
  public void close() {
    managed.shutdownNow();
  }

  private PoolServiceBlockingStub pool(Deadline deadline) {
    return deadline == null ? pool() : pool().withDeadline(deadline);
  }

  private static Deadline deadline(Duration timeout) {
    return timeout == null ? null : Deadline.after(timeout.toNanos(), TimeUnit.NANOSECONDS);
  }

  private static <A, B> Iterator<B> map(Iterator<A> from, Function<A, B> as) {
    return new Iterator<>() {
      @Override
      public boolean hasNext() {
        return from.hasNext();
      }

      @Override
      public B next() {
        return as.apply(from.next());
      }
    };
  }
}
