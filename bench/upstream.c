/* The MCP server behind every gateway of the benchmark: as cheap as one can be, so that it is
 * never what is measured. One thread, epoll, HTTP/1.1 keep-alive, requests with Content-Length.
 *
 *   POST  Mcp-Method: tools/call       one JSON result of about 300 bytes
 *   POST  Mcp-Method: tools/list       the tools of the benchmark's catalogue
 *   POST  Mcp-Method: server/discover  what an MCP server of 2026-07-28 says of itself
 *   GET   /count                       how many tools/call were answered since the start
 *
 * The first "id" of the body is echoed. It dies with its parent.   usage: upstream PORT */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 65536, CONNECTIONS = 4096, EVENTS = 256, REPLY = 16384, OTHER_TOOLS = 40 };

typedef struct {
  size_t used;
  char in[BUFFER + 1];
} Connection;

static Connection *connections[CONNECTIONS];
static unsigned long calls;
static char list_of_tools[REPLY];

static const char SCHEMA[] =
    "{\"type\":\"object\",\"properties\":{\"amount\":{\"type\":\"integer\"},"
    "\"query\":{\"type\":\"string\"}},\"required\":[\"amount\",\"query\"]}";
static const char SERVER[] =
    "{\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{\"tools\":{}},"
    "\"resultType\":\"complete\",\"ttlMs\":60000,\"cacheScope\":\"public\",\"_meta\":"
    "{\"io.modelcontextprotocol/serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}";
static const char RESULT[] =
    "{\"content\":[{\"type\":\"text\",\"text\":\"Account 4711, Ada Lovelace, London. Balance "
    "1,204.50. Last three movements: 12 March, 80.00; 14 March, -22.10; 15 March, 310.00. "
    "No open cases.\"}],\"isError\":false,\"resultType\":\"complete\"}";

static void describe_tools(void) {
  int n = snprintf(list_of_tools, REPLY,
                   "{\"tools\":[{\"name\":\"lookup\",\"description\":\"The measured tool\","
                   "\"inputSchema\":%s}", SCHEMA);
  for (int i = 0; i < OTHER_TOOLS; i++)
    n += snprintf(list_of_tools + n, REPLY - n,
                  ",{\"name\":\"other_%02d\",\"description\":\"Not called\",\"inputSchema\":%s}", i,
                  SCHEMA);
  snprintf(list_of_tools + n, REPLY - n,
           "],\"resultType\":\"complete\",\"ttlMs\":60000,\"cacheScope\":\"public\"}");
}

/* The value of a header of `head` (NUL-terminated), without leading spaces, or NULL. */
static const char *header(const char *head, const char *name) {
  const char *found = strcasestr(head, name);
  if (!found) return NULL;
  found += strlen(name);
  while (*found == ' ') found++;
  return found;
}

/* The JSON text of the first "id", which must be an integer or a short string. */
static void copy_id(const char *body, char *id, size_t room) {
  const char *at = strstr(body, "\"id\":");
  size_t n = 0;
  if (at)
    for (at += 5; *at && *at != ',' && *at != '}' && n + 1 < room; at++) id[n++] = *at;
  id[n] = 0;
  if (!n) strcpy(id, "null");
}

static bool respond(int fd, const char *status, const char *body, size_t length) {
  char out[REPLY + 256];
  int n = snprintf(out, sizeof out,
                   "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
                   status, length);
  memcpy(out + n, body, length);
  /* A reply is far smaller than a socket buffer: what is not taken at once is a broken peer. */
  return send(fd, out, n + length, MSG_NOSIGNAL) == (ssize_t)(n + length);
}

static bool answer(int fd, const char *head, const char *body) {
  char out[REPLY], id[64];
  const char *method = header(head, "\r\nmcp-method:"), *result = NULL;
  if (!strncmp(head, "GET /count ", 11)) {
    int n = snprintf(out, sizeof out, "%lu", calls);
    return respond(fd, "200 OK", out, n);
  }
  if (!method) return respond(fd, "400 Bad Request", "{}", 2);
  if (!strncmp(method, "tools/call\r", 11)) result = RESULT, calls++;
  if (!strncmp(method, "tools/list\r", 11)) result = list_of_tools;
  if (!strncmp(method, "server/discover\r", 16)) result = SERVER;
  if (!result) return respond(fd, "404 Not Found", "{}", 2);
  copy_id(body, id, sizeof id);
  int n = snprintf(out, sizeof out, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}", id, result);
  return respond(fd, "200 OK", out, n);
}

/* Answers every whole request that has arrived; false when the connection is to be closed. */
static bool serve(int fd, Connection *c) {
  ssize_t n = recv(fd, c->in + c->used, BUFFER - c->used, 0);
  if (n <= 0) return n < 0 && errno == EAGAIN;
  c->used += n;
  for (;;) {
    c->in[c->used] = 0;
    char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end) return c->used < BUFFER;
    end[3] = 0; /* the head ends here for the string functions, and the body begins after it */
    const char *length = header(c->in, "\r\ncontent-length:");
    size_t body = length ? strtoul(length, NULL, 10) : 0, head = end + 4 - c->in;
    if (body > BUFFER - head) return false;
    if (c->used < head + body) {
      end[3] = '\n';
      return true;
    }
    char next = c->in[head + body];
    c->in[head + body] = 0;
    if (!answer(fd, c->in, c->in + head)) return false;
    c->in[head + body] = next;
    c->used -= head + body;
    memmove(c->in, c->in + head + body, c->used);
  }
}

static void accept_all(int poll, int listener) {
  int one = 1, fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    Connection *c = fd < CONNECTIONS ? calloc(1, sizeof *c) : NULL;
    if (!c) {
      close(fd);
      continue;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connections[fd] = c;
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
  }
}

int main(int argc, char **argv) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct epoll_event events[EVENTS];
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  describe_tools();
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) {
    perror("upstream");
    return 1;
  }
  epoll_ctl(poll, EPOLL_CTL_ADD, listener,
            &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
  for (;;) {
    int n = epoll_wait(poll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        accept_all(poll, listener);
      } else if (connections[fd] && !serve(fd, connections[fd])) {
        free(connections[fd]);
        connections[fd] = NULL;
        close(fd);
      }
    }
  }
}
