/* The floor in C: the system calls that a host needs for its heartbeats, and little else.

       c_floor CHANNEL_DIR CHANNELS SECONDS

   The least that any program can do, because each channel is a socket of its own: one send and one
   recv for a beat, one epoll_wait for all that is ready. Beats stand on a grid of 20 ms, 64 channels
   or more to a slot. An answer's echo is checked; nothing else of it is read. It prints the members
   of bench.sample.Sample as a JSON object. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define GRID_MS 20
#define SLOTS (1000 / GRID_MS)
#define SHARED 64
#define WARM_UP_S 0.3
#define EVENTS 4096

static const char ECHO[] = "\"heartbeat_response\":";

struct channel {
    int fd;
    uint32_t owed;
    uint32_t sequence;
};

static struct channel *channels;
static int count, epoll;
static long beats, misses, timed, room;
static double *late;

static void fail(const char *what)
{
    fprintf(stderr, "c_floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static double resident_kb(void)
{
    long whole, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &whole, &resident) != 2)
        fail("/proc/self/statm");
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024.0);
}

/* Connects to a guest, hears its init, which comes in one piece, and acknowledges it. */
static void begin(int index, const char *directory)
{
    char text[256];
    struct channel *channel = &channels[index];
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};
    int size = snprintf(place.sun_path, sizeof place.sun_path,
                        "%s/cgcs.heartbeat.00000000-0000-4000-8000-%012x.sock", directory, index);
    if (size < 0 || (size_t)size >= sizeof place.sun_path) {
        errno = ENAMETOOLONG;
        fail(directory);
    }
    channel->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (channel->fd < 0 || connect(channel->fd, (struct sockaddr *)&place, sizeof place))
        fail(place.sun_path);
    char init[4096];
    if (recv(channel->fd, init, sizeof init, 0) <= 0)
        fail("no init");
    size = snprintf(text, sizeof text,
                    "\n{\"version\":3,\"revision\":1,\"msg_type\":\"init_ack\",\"sequence\":1,"
                    "\"invocation_id\":%d}\n", 1000 + index);
    if (send(channel->fd, text, size, 0) != size || fcntl(channel->fd, F_SETFL, O_NONBLOCK))
        fail("init_ack");
    channel->sequence = 1;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, channel->fd, &event))
        fail("epoll_ctl");
}

static void hear(struct channel *channel)
{
    char data[4096];
    ssize_t size = recv(channel->fd, data, sizeof data - 1, 0);
    if (size <= 0) {
        if (size < 0 && errno == EAGAIN)
            return;
        fail("a guest has gone");
    }
    data[size] = 0;
    const char *echo = strstr(data, ECHO);
    if (echo && channel->owed && strtoul(echo + sizeof ECHO - 1, NULL, 10) == channel->owed) {
        channel->owed = 0;
        beats++;
    }
}

static void challenge(struct channel *channel, double slot_at)
{
    char text[192];
    if (channel->owed)
        misses++;
    channel->owed = (uint32_t)(random() & 0x7fffffff) | 1;
    int size = snprintf(text, sizeof text,
                        "\n{\"version\":3,\"revision\":1,\"msg_type\":\"challenge\",\"sequence\":%"
                        PRIu32 ",\"heartbeat_challenge\":%" PRIu32 "}\n",
                        ++channel->sequence, channel->owed);
    if (send(channel->fd, text, size, 0) != size)
        fail("send");
    if (timed == room) {
        room = room ? 2 * room : 65536;
        late = realloc(late, room * sizeof *late);
        if (!late)
            fail("memory");
    }
    late[timed++] = seconds_of(CLOCK_MONOTONIC) - slot_at;
}

/* The first channel whose beat comes at this slot or later in its second. */
static long first_of(long place)
{
    long used = (count + SHARED - 1) / SHARED;
    if (used > SLOTS)
        used = SLOTS;
    return place * used / SLOTS * count / used;
}

static void run(double until)
{
    static struct epoll_event events[EVENTS];
    static long slot;
    const double grid_s = GRID_MS / 1000.0;
    double now = seconds_of(CLOCK_MONOTONIC);
    if (!slot)
        slot = (long)(now / grid_s) + 1;
    while (now < until) {
        double left_ms = ceil((slot * grid_s - now) * 1e3);
        int ready = epoll_wait(epoll, events, EVENTS, left_ms > 0 ? (int)left_ms : 0);
        for (int index = 0; index < ready; index++)
            hear(events[index].data.ptr);
        now = seconds_of(CLOCK_MONOTONIC);
        while (slot * grid_s <= now) {
            long first = first_of(slot % SLOTS), last = first_of(slot % SLOTS + 1);
            for (long index = first; index < last; index++)
                challenge(&channels[index], slot * grid_s);
            do  /* no wake-up for a slot without channels */
                slot++;
            while (first_of(slot % SLOTS) == first_of(slot % SLOTS + 1));
            now = seconds_of(CLOCK_MONOTONIC);
        }
    }
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double late_ms(double share)
{
    return timed ? late[(long)((timed - 1) * share)] * 1e3 : 0;
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    struct rusage before, after;
    if (argc != 4 || (count = atoi(argv[2])) < 1)
        return 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    channels = calloc(count, sizeof *channels);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!channels || epoll < 0)
        fail("start");
    double first_kb = resident_kb();
    for (int index = 0; index < count; index++)
        begin(index, argv[1]);
    double channel_kb = (resident_kb() - first_kb) / count;
    run(seconds_of(CLOCK_MONOTONIC) + WARM_UP_S);
    beats = misses = timed = 0;
    getrusage(RUSAGE_SELF, &before);
    double began = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    run(began + atof(argv[3]));
    double seconds = seconds_of(CLOCK_MONOTONIC) - began;
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    getrusage(RUSAGE_SELF, &after);
    qsort(late, timed, sizeof *late, by_size);
    printf("{\"channels\":%d,\"seconds\":%f,\"beats\":%ld,\"cpu_s\":%f,\"wakeups\":%ld,"
           "\"channel_kb\":%f,\"late_ms\":[%f,%f,%f],\"misses\":%ld}\n",
           count, seconds, beats, cpu, after.ru_nvcsw - before.ru_nvcsw, channel_kb,
           late_ms(0.5), late_ms(0.99), late_ms(1), misses);
    return 0;
}
