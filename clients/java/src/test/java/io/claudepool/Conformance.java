package io.claudepool;

import com.google.gson.Gson;
import com.google.gson.JsonParser;
import com.google.protobuf.Duration;
import io.claudepool.v1.Argument;
import io.claudepool.v1.CancelRequest;
import io.claudepool.v1.ChainProgress;
import io.claudepool.v1.ChainStep;
import io.claudepool.v1.DeleteContextRequest;
import io.claudepool.v1.Event;
import io.claudepool.v1.FanOutRequest;
import io.claudepool.v1.GetContextRequest;
import io.claudepool.v1.GetResultRequest;
import io.claudepool.v1.ListContextRequest;
import io.claudepool.v1.ListTasksRequest;
import io.claudepool.v1.PauseRequest;
import io.claudepool.v1.PutWorkflowRequest;
import io.claudepool.v1.ResumeRequest;
import io.claudepool.v1.RunSettings;
import io.claudepool.v1.SetContextRequest;
import io.claudepool.v1.StepResult;
import io.claudepool.v1.SubmitChainRequest;
import io.claudepool.v1.SubmitWorkflowRequest;
import io.claudepool.v1.TaskFilter;
import io.claudepool.v1.TaskResult;
import io.claudepool.v1.TaskSpec;
import io.claudepool.v1.WatchChainRequest;
import io.claudepool.v1.Workflow;
import io.grpc.ChannelCredentials;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.IntStream;

/** Does the steps of clients/conformance and prints what it sees; judges nothing. */
public final class Conformance {
  /** A step's fields, as Gson fills them. */
  static final class Step {
    String name;
    String op;
    String address;
    String direct;
    String prompt;
    String service;
    String token;
    String ca_file;
    String task_id;
    int after_sequence;
    long budget_microdollars;
    long timeout_ms;
    List<String> prompts;
    String workflow;
    Map<String, String> arguments;
    List<Step> steps;
    String key;
    String value;
  }

  public static void main(String[] args) throws Exception {
    Gson gson = new Gson();
    String text = Files.readString(Path.of(args[0]));
    for (var element : JsonParser.parseString(text).getAsJsonObject().getAsJsonArray("steps")) {
      Step step = gson.fromJson(element, Step.class);
      Map<String, Object> told = new LinkedHashMap<>();
      told.put("step", step.name);
      try (ClaudepoolClient pool = open(step, step.address)) {
        told.put("saw", see(pool, step));
      } catch (Exception error) {
        told.put("error", error.toString());
      }
      System.out.println(gson.toJson(told));
    }
  }

  private static ClaudepoolClient open(Step step, String address) throws Exception {
    ChannelCredentials tls =
        step.ca_file == null ? null : TlsChannelCredentials.newBuilder().trustManager(new File(step.ca_file)).build();
    return ClaudepoolClient.connect(address, step.token, tls);
  }

  private static Map<String, Object> see(ClaudepoolClient pool, Step step) throws Exception {
    TaskSpec task = ClaudepoolClient.prompt(step.prompt == null ? "" : step.prompt);
    switch (step.op) {
      case "health": {
        var request = HealthCheckRequest.newBuilder().setService(step.service).build();
        return Map.of("status", HealthGrpc.newBlockingStub(pool.channel()).check(request).getStatus().name());
      }
      case "run": {
        TaskResult result = pool.run(task);
        return Map.of("success", result.getSuccess(), "output", result.getOutput(), "failure", failure(result));
      }
      case "run_stream": {
        TaskSpec tagged = tagged(task);
        TaskStream stream = pool.runStream(tagged);
        List<Event> events = collect(stream);
        var said = events.stream().filter(Event::hasTextDelta).map(e -> e.getTextDelta().getText()).toList();
        return Map.of(
            "text", String.join("", said), "deltas", said.size(), "dense", dense(events),
            "task_id", !stream.taskId().isEmpty(), "state", state(events),
            "tasks", tasks(pool, tagged));
      }
      case "submit_once": {
        TaskSpec tagged = tagged(task);
        pool.submit(tagged);
        return Map.of("tasks", tasks(pool, tagged));
      }
      case "submit_watch": {
        List<Event> events = collect(pool.watch(pool.submit(task)));
        return Map.of("dense", dense(events), "state", state(events));
      }
      case "late_attach": {
        String id = pool.submit(task);
        result(pool, id);
        List<Event> events = collect(pool.watch(id));
        List<Event> rest = collect(pool.watch(id, step.after_sequence, null));
        boolean tail = rest.equals(events.subList(step.after_sequence, events.size()));
        return Map.of("dense", dense(events), "rest_is_tail", tail && !rest.isEmpty());
      }
      case "cancel": {
        String id = pool.submit(task);
        var cancel = CancelRequest.newBuilder().setTaskId(id).build();
        List<Event> events = new ArrayList<>();
        for (Event event : pool.watch(id)) {
          if (event.hasTextDelta()) {
            pool.pool().cancel(cancel);
          }
          events.add(event);
        }
        pool.pool().cancel(cancel);
        return Map.of("state", state(events), "repeat", true);
      }
      case "fan_out": {
        var request = FanOutRequest.newBuilder();
        step.prompts.forEach(prompt -> request.addTasks(ClaudepoolClient.prompt(prompt)));
        String[] outputs = new String[step.prompts.size()];
        String[] failures = new String[step.prompts.size()];
        pool.pool().fanOut(request.build()).forEachRemaining(message -> {
          if (message.hasFinished()) {
            var item = message.getFinished();
            outputs[item.getIndex()] = item.getResult().getSuccess() ? item.getResult().getOutput() : "";
            failures[item.getIndex()] = failure(item.getResult());
          }
        });
        return Map.of("outputs", outputs, "failures", failures);
      }
      case "chain": {
        var request = SubmitChainRequest.newBuilder().addAllSteps(chainSteps(step)).build();
        String id = pool.pool().submitChain(request).getTaskId();
        List<ChainProgress> seen = new ArrayList<>();
        pool.pool().watchChain(WatchChainRequest.newBuilder().setTaskId(id).build()).forEachRemaining(message -> {
          if (message.hasProgress()) {
            seen.add(message.getProgress());
          }
        });
        ChainProgress last = seen.get(seen.size() - 1);
        boolean rising =
            IntStream.range(1, seen.size()).allMatch(i -> seen.get(i).getSequence() > seen.get(i - 1).getSequence());
        return Map.of(
            "status", last.getStatus().name().replace("CHAIN_STATUS_", ""),
            "outputs", result(pool, id).getChain().getStepsList().stream().map(StepResult::getOutput).toList(),
            "rising", rising,
            "completed", last.getCompletedStepsList().stream().map(StepResult::getName).toList());
      }
      case "workflow": {
        var workflow =
            Workflow.newBuilder().setName(step.workflow).setDescription("Greets.").addAllSteps(chainSteps(step));
        step.arguments.keySet().forEach(
            name -> workflow.addArguments(Argument.newBuilder().setName(name).setRequired(true)));
        pool.catalog().putWorkflow(PutWorkflowRequest.newBuilder().setWorkflow(workflow).build());
        var request = SubmitWorkflowRequest.newBuilder().setName(step.workflow).putAllArguments(step.arguments);
        String id = pool.pool().submitWorkflow(request.build()).getTaskId();
        return Map.of("final_output", result(pool, id).getChain().getFinalOutput());
      }
      case "context": {
        pool.context().setContext(SetContextRequest.newBuilder().setKey(step.key).setValue(step.value).build());
        boolean listed = pool.context().listContext(ListContextRequest.getDefaultInstance()).getEntriesList().stream()
            .anyMatch(entry -> entry.getKey().equals(step.key) && entry.getValue().equals(step.value));
        boolean seen = pool.run(task).getOutput().contains(step.value);
        pool.context().deleteContext(DeleteContextRequest.newBuilder().setKey(step.key).build());
        var error = refusal(() -> pool.context().getContext(GetContextRequest.newBuilder().setKey(step.key).build()));
        return Map.of("listed", listed, "seen", seen, "code", error.code().name(), "reason", error.reason());
      }
      case "refused": {
        var settings = RunSettings.newBuilder().setBudgetMicrodollars(step.budget_microdollars);
        var error = refusal(() -> pool.submit(task.toBuilder().setSettings(settings).build()));
        return Map.of(
            "code", error.code().name(), "reason", error.reason(), "fields", error.violations().keySet());
      }
      case "paused": {
        pool.operator().pause(PauseRequest.getDefaultInstance());
        var error = refusal(() -> pool.submit(task));
        pool.operator().resume(ResumeRequest.getDefaultInstance());
        long retry = error.retryAfter().map(java.time.Duration::toMillis).orElse(0L);
        return Map.of("code", error.code().name(), "reason", error.reason(), "retry_after_ms", retry);
      }
      case "deadline": {
        var error = refusal(() -> pool.run(task, java.time.Duration.ofMillis(step.timeout_ms)));
        return Map.of("code", error.code().name());
      }
      case "same_bytes": {
        try (ClaudepoolClient direct = open(step, step.direct)) {
          String id = direct.submit(task);
          List<Event> disturbed = collect(pool.watch(id));
          List<Event> undisturbed = collect(direct.watch(id));
          List<Event> shared = collect(direct.watch(step.task_id));
          return Map.of(
              "disturbed", digest(disturbed), "undisturbed", digest(undisturbed), "events", disturbed.size(),
              "shared", digest(shared));
        }
      }
      default:
        throw new IllegalArgumentException("no such op: " + step.op);
    }
  }

  private static List<Event> collect(TaskStream stream) {
    List<Event> events = new ArrayList<>();
    stream.forEach(events::add);
    return events;
  }

  /** The task with a tag of its own, to count by. */
  private static TaskSpec tagged(TaskSpec task) {
    return task.toBuilder().addTags(UUID.randomUUID().toString()).build();
  }

  /** How many tasks there are with its tag. */
  private static int tasks(ClaudepoolClient pool, TaskSpec task) {
    var filter = TaskFilter.newBuilder().addAllAnyTags(task.getTagsList());
    return pool.pool().listTasks(ListTasksRequest.newBuilder().setFilter(filter).build()).getTasksCount();
  }

  private static boolean dense(List<Event> events) {
    return !events.isEmpty()
        && IntStream.range(0, events.size()).allMatch(i -> events.get(i).getSequence() == i + 1);
  }

  private static String state(List<Event> events) {
    return events.get(events.size() - 1).getFinished().getState().name().replace("TASK_STATE_", "");
  }

  private static String failure(TaskResult result) {
    return result.hasFailure() ? result.getFailure().getReason().name().replace("FAILURE_REASON_", "") : "";
  }

  private static String digest(List<Event> events) throws Exception {
    MessageDigest hash = MessageDigest.getInstance("SHA-256");
    events.forEach(event -> hash.update(event.toByteArray()));
    return HexFormat.of().formatHex(hash.digest());
  }

  private static TaskResult result(ClaudepoolClient pool, String id) {
    var wait = Duration.newBuilder().setSeconds(60);
    return pool.pool().getResult(GetResultRequest.newBuilder().setTaskId(id).setWait(wait).build()).getResult();
  }

  private static List<ChainStep> chainSteps(Step step) {
    return step.steps.stream().map(s -> ChainStep.newBuilder().setName(s.name).setPrompt(s.prompt).build()).toList();
  }

  private static ClaudepoolException refusal(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      return ClaudepoolException.of(error);
    } catch (ClaudepoolException error) {
      return error;
    }
    throw new AssertionError("it was not refused");
  }
}
