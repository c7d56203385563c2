import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/** A workload on java-spiffe; see interop/README.md for the verbs. */
public final class Workload {
  public static void main(String[] args) throws Exception {
    try {
      run(args);
      System.exit(0);
    } catch (Exception error) {
      System.err.println(error);
      System.exit(1);
    }
  }

  private static void run(String[] args) throws Exception {
    switch (args[0]) {
      case "fetch-x509" -> {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
          X509Context context = client.fetchX509Context();
          List<X509Svid> svids = context.getX509Svids();
          String all = svids.stream().map(Workload::describe).collect(Collectors.joining(","));
          String domain = context.getDefaultSvid().getSpiffeId().getTrustDomain().getName();
          context.getX509BundleSet()
              .getBundleForTrustDomain(context.getDefaultSvid().getSpiffeId().getTrustDomain());
          say("{\"svids\":[" + all + "],\"bundles\":[\"" + domain + "\"]}");
        }
      }
      case "fetch-jwt" -> {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
          JwtSvid svid = client.fetchJwtSvid(args[1]);
          JwtBundleSet bundles = client.fetchJwtBundles();
          JwtSvid.parseAndValidate(svid.getToken(), bundles, Set.of(args[1]));
          say("{\"id\":\"" + svid.getSpiffeId() + "\",\"token\":\"" + svid.getToken() + "\"}");
        }
      }
      case "validate-jwt" -> {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
          say("{\"id\":\"" + client.validateJwtSvid(args[2], args[1]).getSpiffeId() + "\"}");
        }
      }
      case "watch" -> watch(Integer.parseInt(args[1]));
      case "serve" -> serve(args[1]);
      case "dial" -> dial(args[1], args[2]);
      default -> throw new IllegalArgumentException("unknown verb " + args[0]);
    }
  }

  private static void say(String line) {
    System.out.println(line);
    System.out.flush();
  }

  private static String describe(X509Svid svid) {
    String hint = svid.getHint() == null ? "" : svid.getHint();
    return "{\"id\":\"" + svid.getSpiffeId() + "\",\"serial\":\"" + svid.getLeaf().getSerialNumber()
        + "\",\"hint\":\"" + hint + "\"}";
  }

  private static void watch(int count) throws Exception {
    BlockingQueue<X509Context> updates = new LinkedBlockingQueue<>();
    try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
      Thread thread = new Thread(() -> client.watchX509Context(new Watcher<X509Context>() {
        @Override
        public void onUpdate(X509Context update) {
          updates.add(update);
        }

        @Override
        public void onError(Throwable error) {
          System.err.println(error);
        }
      }));
      thread.setDaemon(true);
      thread.start();
      for (int i = 0; i < count; i++) {
        X509Context update = updates.poll(120, TimeUnit.SECONDS);
        if (update == null) {
          throw new IllegalStateException("no update");
        }
        say(describe(update.getDefaultSvid()));
      }
    }
  }

  private static SSLContext context(String accepted) throws Exception {
    SpiffeId id = SpiffeId.parse(accepted);
    return SpiffeSslContextFactory.getSslContext(
        SslContextOptions.builder()
            .x509Source(DefaultX509Source.newSource())
            .acceptedSpiffeIdsSupplier(() -> Set.of(id))
            .build());
  }

  private static void serve(String allowed) throws Exception {
    SSLServerSocket listener =
        (SSLServerSocket) context(allowed).getServerSocketFactory().createServerSocket(0);
    listener.setNeedClientAuth(true);
    say("{\"port\":" + listener.getLocalPort() + "}");
    Thread thread = new Thread(() -> {
      while (true) {
        try (SSLSocket socket = (SSLSocket) listener.accept()) {
          answer(socket);
          say("{\"served\":true}");
        } catch (Exception error) {
          say("{\"refused\":true}");
        }
      }
    });
    thread.setDaemon(true);
    thread.start();
    System.in.readAllBytes();
  }

  private static void answer(SSLSocket socket) throws Exception {
    socket.setSoTimeout(10_000);
    socket.startHandshake();
    String line = line(socket);
    OutputStream out = socket.getOutputStream();
    out.write(("echo " + line + "\n").getBytes(StandardCharsets.UTF_8));
    out.flush();
  }

  private static void dial(String address, String expected) throws Exception {
    String[] parts = address.split(":");
    try (SSLSocket socket = (SSLSocket) context(expected)
        .getSocketFactory().createSocket(parts[0], Integer.parseInt(parts[1]))) {
      socket.setSoTimeout(10_000);
      socket.getOutputStream().write("hello\n".getBytes(StandardCharsets.UTF_8));
      String reply = line(socket);
      if (reply == null) {
        throw new IllegalStateException("no reply");
      }
      say("{\"reply\":\"" + reply + "\\n\"}");
    }
  }

  private static String line(SSLSocket socket) throws Exception {
    return new BufferedReader(
        new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
  }
}
