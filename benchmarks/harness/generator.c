/* Load generator: HTTP and WebSocket senders and WebSocket receivers in one epoll loop, told what to do by a plan.
 *
 * usage: generator PLAN PORT WARM_S WINDOW_S RATE_PER_S DRAIN_S
 * Prints "ready" when every connection is open, "begin" and "end" around the window, then one line of JSON.
 * RATE_PER_S 0: each sender sends again as soon as it was answered (closed loop); otherwise sends are due at fixed
 * times, and waiting for a free sender counts as latency (open loop).
 * The plan is written by load.py, which describes it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HTTP = 0, WS = 1, SOCKETIO = 2 };
enum { MAX_IN_FLIGHT = 4096, HISTOGRAM_US = 4000000, HANDSHAKE_S = 60, ID_BASE = 1000000000 };
static const uint32_t ALARM = UINT32_MAX; /* among the connections' numbers in epoll */

typedef struct {
  const uint8_t *bytes;
  uint32_t size;
} Blob;
typedef struct {
  Blob send, expect;
} Step;
typedef struct {
  int fd, protocol, sends, in_flight_limit, in_flight, upgraded, ready;
  uint32_t steps, step, templates, next_template;
  Blob upgrade;
  Step *step_list;
  uint8_t **template_list;
  uint32_t template_size;
  int stamp_at, key_at, id_at, frame_head;
  uint8_t *in;
  uint32_t have, room;
  uint32_t sent;
  uint64_t *sent_at;
} Conn;
typedef struct {
  uint32_t *us;
  uint64_t count, sum, max;
} Histogram;

static Conn *conns;
static uint32_t conn_count;
static uint64_t keys, issued, acked_all, acked, refused, deliveries_all, deliveries, refused_by[1000];
static int measuring, draining, open_loop, port;
static uint64_t key_start;
static Histogram acks, arrivals;
static char first_refusal[512];

static void die(const char *text) {
  fprintf(stderr, "generator: %s\n", text);
  exit(1);
}
static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static void count(Histogram *h, uint64_t ns) {
  uint64_t us = ns / 1000;
  if (us > h->max) h->max = us;
  h->count++;
  h->sum += us;
  h->us[us < HISTOGRAM_US ? us : HISTOGRAM_US - 1]++;
}
static double quantile(Histogram *h, double q) {
  uint64_t seen = 0, want = (uint64_t)(h->count * q);
  for (int i = 0; i < HISTOGRAM_US; i++) {
    seen += h->us[i];
    if (seen > want) return i / 1000.0;
  }
  return h->max / 1000.0;
}
static void put_digits(uint8_t *at, uint64_t value, int digits) {
  while (digits--) {
    at[digits] = '0' + value % 10;
    value /= 10;
  }
}

static void send_all(Conn *c, const void *data, size_t size) {
  const char *at = data;
  while (size) {
    ssize_t n = send(c->fd, at, size, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno != EAGAIN && errno != EINTR) die("a connection was closed while sending");
      struct pollfd p = {c->fd, POLLOUT, 0};
      poll(&p, 1, 1000);
      continue;
    }
    at += n;
    size -= n;
  }
}
/* A client masks; the key is zero, so that the payload stands there as it is. */
static int frame_head(uint8_t *out, int opcode, uint32_t size) {
  out[0] = 0x80 | opcode;
  int n = 2;
  if (size < 126) out[1] = 0x80 | size;
  else if (size < 65536) {
    out[1] = 0x80 | 126;
    out[2] = size >> 8;
    out[3] = size;
    n = 4;
  } else {
    out[1] = 0x80 | 127;
    memset(out + 2, 0, 4);
    for (int i = 0; i < 4; i++) out[6 + i] = size >> (24 - 8 * i);
    n = 10;
  }
  memset(out + n, 0, 4);
  return n + 4;
}
static void send_frame(Conn *c, int opcode, const void *payload, uint32_t size) {
  uint8_t *frame = malloc(size + 14);
  int head = frame_head(frame, opcode, size);
  memcpy(frame + head, payload, size);
  send_all(c, frame, head + size);
  free(frame);
}
static void send_one(Conn *c, uint64_t due_ns) {
  uint8_t *t = c->template_list[c->next_template++ % c->templates];
  uint8_t *payload = t + c->frame_head;
  uint64_t at = due_ns ? due_ns : now_ns();
  if (c->stamp_at >= 0) put_digits(payload + c->stamp_at, at, 19);
  if (c->key_at >= 0) put_digits(payload + c->key_at, key_start + keys++, 16);
  if (c->id_at >= 0) put_digits(payload + c->id_at, ID_BASE + c->sent, 10);
  c->sent_at[c->sent++ % MAX_IN_FLIGHT] = at;
  c->in_flight++;
  issued++;
  send_all(c, t, c->frame_head + c->template_size);
}
static void answered(Conn *c, uint32_t number, int status, const uint8_t *text, uint32_t size) {
  uint64_t at = now_ns();
  c->in_flight--;
  if (status >= 200 && status < 300) {
    acked_all++;
    if (measuring) {
      acked++;
      count(&acks, at - c->sent_at[number % MAX_IN_FLIGHT]);
    }
  } else {
    refused++;
    refused_by[status >= 0 && status < 1000 ? status : 999]++;
    if (!first_refusal[0]) {
      uint32_t n = size < 300 ? size : 300;
      memcpy(first_refusal, text, n);
      first_refusal[n] = 0;
    }
  }
}
static void delivered(const uint8_t *digits) {
  uint64_t at = now_ns(), stamp = 0;
  for (int i = 0; i < 19; i++) {
    if (digits[i] < '0' || digits[i] > '9') return;
    stamp = stamp * 10 + (digits[i] - '0');
  }
  deliveries_all++;
  if (measuring) {
    deliveries++;
    count(&arrivals, at - stamp);
  }
}
static void start_step(Conn *c);
static void step_done(Conn *c) {
  c->step++;
  start_step(c);
}
static void start_step(Conn *c) {
  if (c->step >= c->steps) {
    c->ready = 1;
    return;
  }
  Step *s = &c->step_list[c->step];
  if (s->send.size) send_frame(c, 1, s->send.bytes, s->send.size);
  if (!s->expect.size) step_done(c);
}
static void handshake_payload(Conn *c, const uint8_t *p, uint32_t n) {
  Step *s = &c->step_list[c->step];
  if (memmem(p, n, s->expect.bytes, s->expect.size)) {
    if (memmem(p, n, "\"error\"", 7)) {
      fprintf(stderr, "generator: refused: %.*s\n", (int)n, p);
      exit(1);
    }
    step_done(c);
  }
}
static void socketio_payload(Conn *c, const uint8_t *p, uint32_t n) {
  if (n == 1 && p[0] == '2') {
    send_frame(c, 1, "3", 1);
    return;
  }
  if (!c->ready) {
    handshake_payload(c, p, n);
    return;
  }
  const uint8_t *mark = memmem(p, n, "~T", 2);
  if (mark && mark + 22 <= p + n) delivered(mark + 2);
}
/* One frame holds one JSON document a line: replies start with their id, pushes don't; {} is a ping. */
static void line_payload(Conn *c, const uint8_t *p, uint32_t n) {
  if (!c->ready) {
    handshake_payload(c, p, n);
    return;
  }
  const uint8_t *end = p + n;
  while (p < end) {
    const uint8_t *stop = memchr(p, '\n', end - p);
    if (!stop) stop = end;
    uint32_t size = stop - p;
    if (size == 2 && p[0] == '{' && p[1] == '}') send_frame(c, 1, "{}", 2);
    else if (size > 6 && !memcmp(p, "{\"id\":", 6)) {
      uint64_t id = 0;
      const uint8_t *d = p + 6;
      while (d < stop && *d >= '0' && *d <= '9') id = id * 10 + (*d++ - '0');
      if (id >= ID_BASE && c->sends) {
        int failed = stop - d > 8 && !memcmp(d, ",\"error\"", 8);
        answered(c, id - ID_BASE, failed ? 500 : 200, p, size);
      }
    } else {
      const uint8_t *mark = memmem(p, size, "~T", 2);
      if (mark && mark + 22 <= stop) delivered(mark + 2);
    }
    p = stop + 1;
  }
}
static uint32_t read_http(Conn *c) {
  uint32_t used = 0;
  for (;;) {
    uint8_t *at = c->in + used;
    uint32_t left = c->have - used;
    uint8_t *end = left ? memmem(at, left, "\r\n\r\n", 4) : 0;
    if (!end) return used;
    uint32_t head = end + 4 - at, body = 0;
    int status = atoi((char *)at + 9), known = status == 204;
    for (uint8_t *l = at; l < end;) {
      uint8_t *stop = memmem(l, end + 2 - l, "\r\n", 2);
      if (!stop) break;
      if (!strncasecmp((char *)l, "content-length:", 15)) {
        body = strtoul((char *)l + 15, 0, 10);
        known = 1;
      }
      l = stop + 2;
    }
    if (!known) die("an answer without content-length");
    if (left < head + body) return used;
    answered(c, c->sent - 1, status, at, head + body);
    used += head + body;
  }
}
static uint32_t read_frames(Conn *c) {
  uint32_t used = 0;
  while (c->have - used >= 2) {
    uint8_t *f = c->in + used;
    uint32_t left = c->have - used, head = 2;
    uint64_t n = f[1] & 127;
    if (n == 126) {
      if (left < 4) break;
      n = f[2] << 8 | f[3];
      head = 4;
    } else if (n == 127) {
      if (left < 10) break;
      n = 0;
      for (int i = 0; i < 8; i++) n = n << 8 | f[2 + i];
      head = 10;
    }
    if (left < head + n) break;
    int opcode = f[0] & 15;
    if (opcode == 1 || opcode == 2) {
      if (c->protocol == SOCKETIO) socketio_payload(c, f + head, n);
      else line_payload(c, f + head, n);
    } else if (opcode == 9) send_frame(c, 10, f + head, n);
    else if (opcode == 8) {
      fprintf(stderr, "generator: closed by the server: %d %.*s\n", n > 1 ? f[head] << 8 | f[head + 1] : 0,
              n > 2 ? (int)n - 2 : 0, f + head + 2);
      exit(1);
    }
    used += head + n;
  }
  return used;
}
static void readable(Conn *c) {
  for (;;) {
    if (c->room - c->have < 65536) {
      c->room = c->room ? c->room * 2 : 131072;
      c->in = realloc(c->in, c->room + 1);
    }
    uint32_t room = c->room - c->have;
    ssize_t n = recv(c->fd, c->in + c->have, room, 0);
    if (n == 0) die("a connection was closed by the server");
    if (n < 0) {
      if (errno == EAGAIN) return;
      die("a connection broke");
    }
    c->have += n;
    uint32_t used = 0;
    if (c->protocol != HTTP && !c->upgraded) {
      uint8_t *end = memmem(c->in, c->have, "\r\n\r\n", 4);
      if (!end) continue;
      if (memcmp(c->in + 9, "101", 3)) {
        c->in[c->have] = 0;
        fprintf(stderr, "generator: no upgrade: %.300s\n", c->in);
        exit(1);
      }
      c->upgraded = 1;
      used = end + 4 - c->in;
      memmove(c->in, c->in + used, c->have - used);
      c->have -= used;
      start_step(c);
    }
    used = c->protocol == HTTP ? read_http(c) : read_frames(c);
    if (used) {
      memmove(c->in, c->in + used, c->have - used);
      c->have -= used;
    }
    if ((uint32_t)n < room) return;
  }
}
static uint8_t *plan_at, *plan_end;
static uint32_t take_u32(void) {
  if (plan_end - plan_at < 4) die("the plan is cut short");
  uint32_t v;
  memcpy(&v, plan_at, 4);
  plan_at += 4;
  return v;
}
static Blob take_blob(void) {
  Blob b;
  b.size = take_u32();
  if (plan_end - plan_at < b.size) die("the plan is cut short");
  b.bytes = plan_at;
  plan_at += b.size;
  return b;
}
static void read_plan(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) die("no plan");
  fseek(f, 0, SEEK_END);
  long size = ftell(f);
  rewind(f);
  plan_at = malloc(size + 1);
  if (fread(plan_at, 1, size, f) != (size_t)size) die("the plan can't be read");
  fclose(f);
  plan_end = plan_at + size;
  conn_count = take_u32();
  conns = calloc(conn_count, sizeof(Conn));
  for (uint32_t i = 0; i < conn_count; i++) {
    Conn *c = &conns[i];
    c->protocol = take_u32();
    c->in_flight_limit = take_u32();
    c->upgrade = take_blob();
    c->steps = take_u32();
    c->step_list = calloc(c->steps + 1, sizeof(Step));
    for (uint32_t s = 0; s < c->steps; s++) {
      c->step_list[s].send = take_blob();
      c->step_list[s].expect = take_blob();
    }
    c->stamp_at = take_u32();
    c->key_at = take_u32();
    c->id_at = take_u32();
    c->templates = take_u32();
    c->sends = c->templates > 0;
    c->template_list = calloc(c->templates + 1, sizeof(uint8_t *));
    if (c->sends) c->sent_at = calloc(MAX_IN_FLIGHT, 8);
    for (uint32_t t = 0; t < c->templates; t++) {
      Blob b = take_blob();
      uint8_t head[16];
      c->template_size = b.size;
      c->frame_head = c->protocol == HTTP ? 0 : frame_head(head, 1, b.size);
      c->template_list[t] = malloc(b.size + c->frame_head);
      memcpy(c->template_list[t], head, c->frame_head);
      memcpy(c->template_list[t] + c->frame_head, b.bytes, b.size);
    }
  }
}
static void open_conn(Conn *c, int epoll, uint32_t index) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&a, sizeof a)) die("no connection");
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.u32 = index};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
  if (c->protocol == HTTP) c->ready = 1;
  else send_all(c, c->upgrade.bytes, c->upgrade.size);
}
/* A timer to the nanosecond ends a wait, which counts in whole milliseconds: spinning would take a core that a machine
   with a share of its host's may take from the server. */
static int open_alarm(int epoll) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u32 = ALARM};
  if (fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e)) die("no timer");
  prctl(PR_SET_TIMERSLACK, 1);
  return fd;
}
static void wake_at(int alarm, uint64_t ns) {
  struct itimerspec when = {.it_value = {.tv_sec = ns / 1000000000ull, .tv_nsec = ns % 1000000000ull}};
  timerfd_settime(alarm, TFD_TIMER_ABSTIME, &when, 0);
}
static void turn(int epoll, int wait_ms) {
  struct epoll_event events[1024];
  int n = epoll_wait(epoll, events, 1024, wait_ms);
  for (int i = 0; i < n; i++) {
    if (events[i].data.u32 == ALARM) continue;
    Conn *c = &conns[events[i].data.u32];
    readable(c);
    while (!draining && c->sends && c->ready && c->in_flight < c->in_flight_limit &&
           c->in_flight_limit < MAX_IN_FLIGHT && !open_loop)
      send_one(c, 0);
  }
}
static double cpu_s(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
  if (argc != 7) die("usage: generator PLAN PORT WARM_S WINDOW_S RATE_PER_S DRAIN_S");
  port = atoi(argv[2]);
  double warm_s = atof(argv[3]), window_s = atof(argv[4]), rate = atof(argv[5]), drain_s = atof(argv[6]);
  acks.us = calloc(HISTOGRAM_US, 4);
  arrivals.us = calloc(HISTOGRAM_US, 4);
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  key_start = (uint64_t)wall.tv_sec * 1000000ull + wall.tv_nsec / 1000;
  read_plan(argv[1]);
  int epoll = epoll_create1(0);
  int alarm = open_alarm(epoll);
  uint32_t senders = 0, receivers = 0;
  draining = 1;
  for (uint32_t i = 0; i < conn_count; i++) { /* at most 64 handshakes at once */
    open_conn(&conns[i], epoll, i);
    conns[i].sends ? senders++ : receivers++;
    uint64_t give_up = now_ns() + HANDSHAKE_S * 1000000000ull;
    for (;;) {
      uint32_t waiting = 0;
      for (uint32_t k = 0; k <= i; k++) waiting += !conns[k].ready;
      if (waiting < (i + 1 == conn_count ? 1 : 64)) break;
      turn(epoll, 100);
      if (now_ns() > give_up) die("the handshakes took too long");
    }
  }
  printf("ready\n");
  fflush(stdout);
  uint64_t start = now_ns(), begin = start + (uint64_t)(warm_s * 1e9), end = begin + (uint64_t)(window_s * 1e9);
  uint64_t gap = rate > 0 ? (uint64_t)(1e9 / rate) : 0, due = start;
  uint32_t next = 0;
  uint64_t issued_before = 0, deliveries_in = 0;
  double cpu = 0;
  draining = 0;
  open_loop = gap > 0;
  if (!gap)
    for (uint32_t i = 0; i < conn_count; i++)
      while (conns[i].sends && conns[i].in_flight < conns[i].in_flight_limit) send_one(&conns[i], 0);
  for (;;) {
    uint64_t at = now_ns();
    if (!measuring && at >= begin) {
      measuring = 1;
      begin = at;
      cpu = cpu_s();
      issued_before = issued;
      printf("begin\n");
      fflush(stdout);
    }
    if (at >= end) break;
    if (gap)
      while (due <= at) {
        Conn *free_conn = 0;
        for (uint32_t i = 0; i < conn_count && !free_conn; i++) {
          Conn *c = &conns[(next + i) % conn_count];
          if (c->sends && c->in_flight < c->in_flight_limit) {
            free_conn = c;
            next = (next + i + 1) % conn_count;
          }
        }
        if (!free_conn) break;
        send_one(free_conn, due);
        due += gap;
      }
    if (gap) wake_at(alarm, due > at && due < end ? due : at + 1000000);
    turn(epoll, 10);
  }
  uint64_t finish = now_ns();
  cpu = cpu_s() - cpu;
  double wall_s = (finish - begin) / 1e9;
  measuring = 0;
  draining = 1;
  deliveries_in = deliveries;
  uint64_t issued_in = issued - issued_before;
  printf("end\n");
  fflush(stdout);
  uint64_t give_up = now_ns() + (uint64_t)(drain_s * 1e9);
  while (now_ns() < give_up && (acked_all + refused < issued || deliveries_all < acked_all * receivers))
    turn(epoll, 20);
  printf("{\"wall_s\": %.6f, \"generator_cpu_s\": %.4f, \"issued\": %llu, \"acked\": %llu, \"refused\": %llu, "
         "\"acked_in_all\": %llu, \"deliveries\": %llu, \"deliveries_in_all\": %llu, \"receivers\": %u, "
         "\"senders\": %u",
         wall_s, cpu, (unsigned long long)issued_in, (unsigned long long)acked, (unsigned long long)refused,
         (unsigned long long)acked_all, (unsigned long long)deliveries_in, (unsigned long long)deliveries_all,
         receivers, senders);
  if (acks.count)
    printf(", \"ack_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"mean\": %.3f}",
           quantile(&acks, .5), quantile(&acks, .9), quantile(&acks, .99), acks.max / 1000.0,
           acks.sum / 1000.0 / acks.count);
  if (arrivals.count)
    printf(", \"delivery_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"mean\": %.3f}",
           quantile(&arrivals, .5), quantile(&arrivals, .9), quantile(&arrivals, .99), arrivals.max / 1000.0,
           arrivals.sum / 1000.0 / arrivals.count);
  printf(", \"refused_by_status\": {");
  int first = 1;
  for (int i = 0; i < 1000; i++)
    if (refused_by[i]) {
      printf("%s\"%d\": %llu", first ? "" : ", ", i, (unsigned long long)refused_by[i]);
      first = 0;
    }
  printf("}}\n");
  if (first_refusal[0]) fprintf(stderr, "generator: first refusal: %s\n", first_refusal);
  return 0;
}
