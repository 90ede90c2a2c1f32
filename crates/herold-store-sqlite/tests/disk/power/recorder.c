/* Notes, in order, every change that the process makes below one folder, and every synchronisation.
 *
 * Loaded before the C library (LD_PRELOAD) by the test `power`. What is noted goes to the file that
 * HEROLD_RECORD_LOG names, as a header of four little-endian numbers and, after it, the bytes of the path, the
 * data or the mark. HEROLD_RECORD_ROOT is the folder; what is written to HEROLD_RECORD_MARKS is a mark of the
 * program's own. HEROLD_RECORD_KILL kills the program once so many names were changed. One thread changes files at a time in the programs under test; a lock keeps the notes whole.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, LENGTH, SYNC, REMOVE, RENAME, FOLDER, MARK };
enum { CREATED = 1, TRUNCATED = 2 };
enum { OTHER = 0, INSIDE, MARKS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int notes = -1;
static long names_left;
static const char *root, *marks;
static unsigned char kind[65536];

static int put(const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t put = syscall(SYS_write, notes, at, length);
    if (put < 0) {
      if (errno == EINTR) continue;
      abort();
    }
    at += put;
    length -= (size_t)put;
  }
  return 0;
}

static void note(uint32_t what, int32_t fd, uint64_t number, const void *bytes, uint64_t length) {
  if (notes < 0) return;
  int saved = errno;
  struct { uint32_t what; int32_t fd; uint64_t number, length; } header = { what, fd, number, length };
  pthread_mutex_lock(&lock);
  put(&header, sizeof header);
  if (length > 0) put(bytes, length);
  int is_name = what == REMOVE || what == RENAME || what == FOLDER || (what == OPEN && (number & CREATED));
  if (is_name && names_left > 0 && --names_left == 0) syscall(SYS_kill, getpid(), SIGKILL);
  pthread_mutex_unlock(&lock);
  errno = saved;
}

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("HEROLD_RECORD_LOG");
  root = getenv("HEROLD_RECORD_ROOT");
  marks = getenv("HEROLD_RECORD_MARKS");
  const char *names = getenv("HEROLD_RECORD_KILL");
  names_left = names ? atol(names) : 0;
  if (path && root && marks)
    notes = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int inside(const char *path) {
  if (notes < 0 || !path) return 0;
  size_t length = strlen(root);
  return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int kind_of(int fd) {
  return notes >= 0 && fd >= 0 && fd < (int)sizeof kind ? kind[fd] : OTHER;
}

static int opened(const char *path, int flags, mode_t mode) {
  struct stat before;
  int here = inside(path);
  int was_there = here && stat(path, &before) == 0;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  if (fd < 0 || notes < 0) return fd;
  if (fd >= (int)sizeof kind) abort();
  kind[fd] = here ? INSIDE : strcmp(path, marks) == 0 ? MARKS : OTHER;
  if (here) {
    /* Asked for an end that moves with each write: not foreseen. */
    if (flags & O_APPEND) abort();
    uint64_t done = (was_there ? 0 : CREATED) | ((flags & O_TRUNC) ? TRUNCATED : 0);
    note(OPEN, fd, done, path, strlen(path));
  }
  return fd;
}

static mode_t mode_of(int flags, va_list rest) {
  return (flags & (O_CREAT | O_TMPFILE)) ? (mode_t)va_arg(rest, int) : 0;
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
  if (kind_of(fd) == INSIDE) note(CLOSE, fd, 0, NULL, 0);
  if (notes >= 0 && fd >= 0 && fd < (int)sizeof kind) kind[fd] = OTHER;
  return (int)syscall(SYS_close, fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
  int is = kind_of(fd);
  off_t at = is == INSIDE ? lseek(fd, 0, SEEK_CUR) : 0;
  ssize_t done = syscall(SYS_write, fd, bytes, length);
  if (done > 0 && is != OTHER) note(is == MARKS ? MARK : WRITE, fd, (uint64_t)at, bytes, (uint64_t)done);
  return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
  ssize_t done = syscall(SYS_pwrite64, fd, bytes, length, at);
  if (done > 0 && kind_of(fd) == INSIDE) note(WRITE, fd, (uint64_t)at, bytes, (uint64_t)done);
  return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return pwrite(fd, bytes, length, at); }

int ftruncate(int fd, off_t length) {
  int done = (int)syscall(SYS_ftruncate, fd, length);
  if (done == 0 && kind_of(fd) == INSIDE) note(LENGTH, fd, (uint64_t)length, NULL, 0);
  return done;
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

int fsync(int fd) {
  int done = (int)syscall(SYS_fsync, fd);
  if (done == 0 && kind_of(fd) == INSIDE) note(SYNC, fd, 0, NULL, 0);
  return done;
}

int fdatasync(int fd) {
  int done = (int)syscall(SYS_fdatasync, fd);
  if (done == 0 && kind_of(fd) == INSIDE) note(SYNC, fd, 0, NULL, 0);
  return done;
}

int unlink(const char *path) {
  int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  if (done == 0 && inside(path)) note(REMOVE, -1, 0, path, strlen(path));
  return done;
}

int rename(const char *from, const char *to) {
  int done = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (done == 0 && inside(from)) {
    size_t length = strlen(from);
    char both[2 * 4096];
    if (length + strlen(to) > sizeof both) abort();
    memcpy(both, from, length);
    memcpy(both + length, to, strlen(to));
    note(RENAME, -1, length, both, length + strlen(to));
  }
  return done;
}

int mkdir(const char *path, mode_t mode) {
  int done = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  if (done == 0 && inside(path)) note(FOLDER, -1, 0, path, strlen(path));
  return done;
}

/* Ways to change a file that are not noted: a program that begins to use one has to be seen. */

int fallocate(int fd, int mode, off_t at, off_t length) {
  if (kind_of(fd) == INSIDE) abort();
  return (int)syscall(SYS_fallocate, fd, mode, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length) {
  if (kind_of(fd) == INSIDE) abort();
  return syscall(SYS_fallocate, fd, 0, at, length) == 0 ? 0 : errno;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
  if (kind_of(fd) == INSIDE && (flags & MAP_SHARED) && (protection & PROT_WRITE)) abort();
  return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}
