package io.claudepool;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** A refused or broken call. */
public final class ClaudepoolException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final Status.Code code;
  private final String reason;
  private final transient Duration retryAfter;
  private final transient Map<String, String> violations;

  private ClaudepoolException(
      Status status, String reason, Duration retryAfter, Map<String, String> violations, Throwable cause) {
    super((reason.isEmpty() ? status.getCode() : reason) + ": " + status.getDescription(), cause);
    this.code = status.getCode();
    this.reason = reason;
    this.retryAfter = retryAfter;
    this.violations = violations;
  }

  /** What an exception of a stub says. */
  public static ClaudepoolException of(StatusRuntimeException cause) {
    String reason = "";
    Duration retryAfter = null;
    Map<String, String> violations = new LinkedHashMap<>();
    com.google.rpc.Status details = StatusProto.fromThrowable(cause);
    try {
      for (Any detail : details == null ? java.util.List.<Any>of() : details.getDetailsList()) {
        if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("claudepool")) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } else if (detail.is(BadRequest.class)) {
          for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
            violations.put(violation.getField(), violation.getDescription());
          }
        }
      }
    } catch (InvalidProtocolBufferException malformed) {
      cause.addSuppressed(malformed);
    }
    return new ClaudepoolException(cause.getStatus(), reason, retryAfter, violations, cause);
  }

  static ClaudepoolException endedEarly() {
    return of(Status.UNAVAILABLE.withDescription("the stream ended before the task did").asRuntimeException());
  }

  /** The gRPC code. */
  public Status.Code code() {
    return code;
  }

  /** The word of docs/errors.md; empty if the server did not answer. */
  public String reason() {
    return reason;
  }

  /** Set if the server says when to try again. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** What is wrong, by field path. */
  public Map<String, String> violations() {
    return violations == null ? Map.of() : violations;
  }

  /** Whether attaching again may help. */
  boolean mendable(boolean attached) {
    return switch (code) {
      case UNAVAILABLE -> attached || reason.isEmpty();
      case UNKNOWN, INTERNAL -> reason.isEmpty();
      default -> false;
    };
  }
}
