/* A machine with a bad disk and a bad clock, for one process: preloaded into it, ruled from outside by a shared file.
   SOAK_MACHINE names that file (struct machine), SOAK_DISK the folder that stands for the disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct machine {
  int64_t ahead_ns;    /* what UTC is ahead of the truth */
  int64_t sync_ms;     /* how long writing through to the disk takes */
  int64_t write_errno; /* with what every change of the disk fails; 0 lets them be */
  int64_t shown;       /* how often a sync was held up or a change refused: written by the process */
};

static struct machine healthy;
static volatile struct machine *machine = &healthy;
static char disk[4096];

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("SOAK_MACHINE"), *folder = getenv("SOAK_DISK");
  int fd = file == NULL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
  void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof healthy, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd >= 0) syscall(SYS_close, fd);
  if (shared != MAP_FAILED) machine = shared;
  if (folder != NULL) snprintf(disk, sizeof disk, "%s/", folder);
}

static int refused(void) {
  __atomic_add_fetch(&machine->shown, 1, __ATOMIC_RELAXED);
  errno = (int)machine->write_errno;
  return -1;
}

static int is_on_disk(const char *path) { return disk[0] != 0 && strncmp(path, disk, strlen(disk)) == 0; }

static int refuses_path(const char *path) {
  return machine->write_errno != 0 && path != NULL && is_on_disk(path);
}

static int is_file_on_disk(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_on_disk(path);
}

static int refuses(int fd) {
  int kept = errno, answer = machine->write_errno != 0 && is_file_on_disk(fd);
  errno = kept;
  return answer;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define CHANGES_FD(name, result, parameters, ...)                            \
  result name parameters {                                                   \
    static __typeof__(&name) next;                                           \
    if (next == NULL) next = NEXT(name);                                     \
    return refuses(fd) ? (result)refused() : next(__VA_ARGS__);              \
  }

CHANGES_FD(write, ssize_t, (int fd, const void *from, size_t size), fd, from, size)
CHANGES_FD(pwrite, ssize_t, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
CHANGES_FD(pwrite64, ssize_t, (int fd, const void *from, size_t size, off64_t at), fd, from, size, at)
CHANGES_FD(ftruncate, int, (int fd, off_t size), fd, size)
CHANGES_FD(ftruncate64, int, (int fd, off64_t size), fd, size)

#define CHANGES_PATH(name, parameters, ...)                                  \
  int name parameters {                                                      \
    static __typeof__(&name) next;                                           \
    if (next == NULL) next = NEXT(name);                                     \
    return refuses_path(path) ? refused() : next(__VA_ARGS__);               \
  }

CHANGES_PATH(unlink, (const char *path), path)
CHANGES_PATH(mkdir, (const char *path, mode_t mode), path, mode)
CHANGES_PATH(rename, (const char *path, const char *to), path, to)

#define OPENS(name)                                                          \
  int name(const char *path, int flags, ...) {                               \
    static __typeof__(&name) next;                                           \
    va_list rest;                                                            \
    mode_t mode = 0;                                                         \
    if (next == NULL) next = NEXT(name);                                     \
    va_start(rest, flags);                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);          \
    va_end(rest);                                                            \
    if ((flags & (O_WRONLY | O_RDWR)) && refuses_path(path)) return refused(); \
    return next(path, flags, mode);                                          \
  }

OPENS(open)
OPENS(open64)

#define SYNCS(name)                                                          \
  int name(int fd) {                                                         \
    static __typeof__(&name) next;                                           \
    int64_t ms = machine->sync_ms;                                           \
    if (next == NULL) next = NEXT(name);                                     \
    if (ms > 0 && is_file_on_disk(fd)) {                                     \
      struct timespec wait = {ms / 1000, ms % 1000 * 1000000};               \
      __atomic_add_fetch(&machine->shown, 1, __ATOMIC_RELAXED);              \
      nanosleep(&wait, NULL);                                                \
    }                                                                        \
    return refuses(fd) ? refused() : next(fd);                               \
  }

SYNCS(fsync)
SYNCS(fdatasync)

int clock_gettime(clockid_t clock, struct timespec *now) {
  static __typeof__(&clock_gettime) next;
  if (next == NULL) next = NEXT(clock_gettime);
  int status = next(clock, now);
  if (status == 0 && machine->ahead_ns != 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t all = now->tv_sec * 1000000000LL + now->tv_nsec + machine->ahead_ns;
    now->tv_sec = all / 1000000000LL;
    now->tv_nsec = all % 1000000000LL;
  }
  return status;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec exact;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return (time_t)-1;
  if (result != NULL) *result = exact.tv_sec;
  return exact.tv_sec;
}
