/*
 * Makes every durable write of a process take the same time: FIXED_SYNC_MICROS microseconds, and no more than that.
 *
 * For files in memory (tmpfs), where a real sync does nothing. fsync and fdatasync, msync with MS_SYNC, syncfs, and
 * each write through a descriptor opened with O_SYNC or O_DSYNC (as LMDB writes its meta page) wait. sync_file_range is
 * only a hint to the kernel and promises nothing, so it is left alone.
 *
 * The wait leaves the core to others, as a disk does: clock_nanosleep, with the thread's timer slack at a nanosecond,
 * until 15 microseconds before the end, which is about how late it wakes; what then is left is spun away. The probe
 * beside each figure tells how exact that is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 65536
#define SECOND 1000000000LL
#define LATE_NANOS 15000

static volatile unsigned char durable[DESCRIPTORS];
static long wait_nanos = 150000;

__attribute__((constructor)) static void configure(void) {
    const char *micros = getenv("FIXED_SYNC_MICROS");
    if (micros) wait_nanos = atol(micros) * 1000;
}

static long long now_nanos(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static void wait_fixed(void) {
    static __thread int is_exact;
    if (!is_exact) {
        prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
        is_exact = 1;
    }
    long long end = now_nanos() + wait_nanos, wake = end - LATE_NANOS;
    struct timespec until = {.tv_sec = wake / SECOND, .tv_nsec = wake % SECOND};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) {}
    while (now_nanos() < end) {}
}

int fsync(int fd) { (void)fd; wait_fixed(); return 0; }
int fdatasync(int fd) { (void)fd; wait_fixed(); return 0; }
int syncfs(int fd) { (void)fd; wait_fixed(); return 0; }

int msync(void *address, size_t length, int flags) {
    (void)address;
    (void)length;
    if (flags & MS_SYNC) wait_fixed();
    return 0;
}

/* What the next definition of each name is: the C library's own. */
#define REAL(name) ((__typeof__(&name))real(&real_##name, #name))
static void *real(void *volatile *kept, const char *name) {
    if (!*kept) *kept = dlsym(RTLD_NEXT, name);
    return *kept;
}

static int mark(int fd, int flags) {
    if (fd >= 0 && fd < DESCRIPTORS) durable[fd] = (flags & O_DSYNC) != 0;
    return fd;
}

/* The flag is taken off, so that the kernel adds no time of its own. */
#define WITHOUT_SYNC(flags) ((flags) & ~(O_SYNC | O_DSYNC))
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

#define OPEN(name) \
    static void *volatile real_##name; \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        return mark(REAL(name)(path, WITHOUT_SYNC(flags), mode), flags); \
    }
#define OPENAT(name) \
    static void *volatile real_##name; \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags) \
        return mark(REAL(name)(folder, path, WITHOUT_SYNC(flags), mode), flags); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static void *volatile real_close;
int close(int fd) {
    if (fd >= 0 && fd < DESCRIPTORS) durable[fd] = 0;
    return REAL(close)(fd);
}

#define WRITE(name, parameters, arguments) \
    static void *volatile real_##name; \
    ssize_t name parameters { \
        ssize_t written = REAL(name) arguments; \
        if (written >= 0 && fd >= 0 && fd < DESCRIPTORS && durable[fd]) wait_fixed(); \
        return written; \
    }
WRITE(write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
WRITE(pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
WRITE(pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at))
WRITE(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRITE(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
WRITE(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
