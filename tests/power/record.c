/* Records, in order, all operations of a program on the files below a folder, so that
 * tests/it/power/replay.rs can build the files that a power cut may leave.
 *
 *   cc -O2 -shared -fPIC -o record.so record.c -ldl -lpthread
 *   RECORD_DIR=/abs/dir RECORD_LOG=/abs/log LD_PRELOAD=/abs/record.so program ...
 *
 * A write is recorded when it begins (from then on its bytes may reach the disk) and when it has ended (a
 * sync that begins later covers it). A sync is recorded when it begins and when it has ended (from then
 * on its guarantee holds). RECORD_LOG.n contains the number of records: 8 bytes of shared memory. A
 * reader that reads it after an acknowledgement knows that every earlier operation has a lower number.
 *
 * RECORD_FLAGS says how the program sees the inode flags S and D, independently of the real file system:
 * "heeded" as on ext4, "files" as on XFS, which has no flag for names, "none" for no flags. RECORD_DELAY is
 * the duration of a sync in microseconds, so that a file system in memory behaves like a disk.
 *
 * Only calls of the C library are recorded, not direct system calls and not mmap.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum op {
  WRITE_BEGIN = 1, WRITE_END, SYNC_BEGIN, SYNC_END, OPEN, CREATE, TRUNCATE, RENAME, UNLINK, MKDIR, LINK, FLAGS
};
/* The names follow, each with a zero byte, then the data of a write. */
struct record {
  uint8_t op, is_dir;
  uint16_t names;
  uint32_t inode;
  uint64_t offset, length;
};

#define MOST_FDS 65536
#define PATH_BYTES 8192
static char dir[PATH_BYTES];
static size_t dir_length;
static int delay, log_fd = -1;
static enum { HEEDED, FILES, NONE } treatment;
static volatile uint64_t *count;
static uint32_t next_inode = 1, inode_of_fd[MOST_FDS], flags_of_inode[1 << 20];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Inodes by path. */
struct entry {
  char *path;
  uint32_t inode;
  struct entry *next;
};
static struct entry *table[4096];

static struct entry **find(const char *path) {
  unsigned hash = 5381;
  for (const char *it = path; *it; it++) hash = hash * 33 + (unsigned char)*it;
  struct entry **at = &table[hash & 4095];
  while (*at && strcmp((*at)->path, path)) at = &(*at)->next;
  return at;
}

static void set(const char *path, uint32_t inode) {
  struct entry **at = find(path);
  if (!*at) {
    *at = calloc(1, sizeof **at);
    (*at)->path = strdup(path);
  }
  (*at)->inode = inode;
}

static uint32_t forget(const char *path) {
  struct entry **at = find(path), *found = *at;
  if (!found) return 0;
  uint32_t inode = found->inode;
  *at = found->next;
  free(found->path);
  free(found);
  return inode;
}

__attribute__((constructor)) static void begin(void) {
  const char *in = getenv("RECORD_DIR"), *log = getenv("RECORD_LOG"), *flags = getenv("RECORD_FLAGS");
  if (!in || !log) return;
  if (getenv("RECORD_DELAY")) delay = atoi(getenv("RECORD_DELAY"));
  treatment = !flags || !strcmp(flags, "none") ? NONE : !strcmp(flags, "files") ? FILES : HEEDED;
  snprintf(dir, sizeof dir, "%s", in);
  dir_length = strlen(dir);
  char counter[PATH_BYTES];
  snprintf(counter, sizeof counter, "%s.n", log);
  int fd = syscall(SYS_openat, AT_FDCWD, counter, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  syscall(SYS_ftruncate, fd, 8);
  count = mmap(0, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  /* Numbers that the program itself does not use. */
  log_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
}

/* The callers of the functions below hold the mutex if these use the tables or the log. */
static uint64_t put(enum op op, int is_dir, uint32_t inode, uint64_t offset, uint64_t length,
                    const char *names, size_t names_length, const struct iovec *data, int parts) {
  struct record head = { op, is_dir, names_length, inode, offset, length };
  struct iovec all[66] = { { &head, sizeof head } };
  int n = 1;
  if (names_length) all[n++] = (struct iovec){ (void *)names, names_length };
  for (int i = 0; i < parts && n < 66; i++) all[n++] = data[i];
  syscall(SYS_writev, log_fd, all, n);
  return (*count)++;
}

static uint64_t put_plain(enum op op, uint32_t inode, uint64_t offset, uint64_t length) {
  return put(op, 0, inode, offset, length, 0, 0, 0, 0);
}

static uint64_t put_name(enum op op, int is_dir, uint32_t inode, const char *path) {
  return put(op, is_dir, inode, 0, 0, path + dir_length, strlen(path + dir_length) + 1, 0, 0);
}

static void put_two_names(enum op op, uint32_t inode, const char *from, const char *to) {
  char names[2 * PATH_BYTES];
  size_t one = strlen(from + dir_length) + 1, two = strlen(to + dir_length) + 1;
  memcpy(names, from + dir_length, one);
  memcpy(names + one, to + dir_length, two);
  put(op, 0, inode, 0, 0, names, one + two, 0, 0);
}

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

static int is_ours(const char *path) {
  return log_fd >= 0 && path && !strncmp(path, dir, dir_length) && (path[dir_length] == '/' || !path[dir_length]);
}

static uint32_t inode_of(int fd) { return log_fd >= 0 && fd >= 0 && fd < MOST_FDS ? inode_of_fd[fd] : 0; }

static const char *absolute(int at, const char *path, char *buffer) {
  char link[64];
  ssize_t length;
  if (path[0] == '/') return path;
  if (at == AT_FDCWD) {
    if (!getcwd(buffer, PATH_BYTES / 2)) return path;
    length = strlen(buffer);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    length = readlink(link, buffer, PATH_BYTES / 2);
    if (length < 0) return path;
  }
  snprintf(buffer + length, PATH_BYTES - length, "/%s", path);
  return buffer;
}

/* The flags that a new file or folder inherits from its folder. */
static void inherit(uint32_t inode, const char *path, int is_dir) {
  char parent[PATH_BYTES];
  snprintf(parent, sizeof parent, "%s", path);
  char *end = strrchr(parent, '/');
  if (!end) return;
  *end = 0;
  struct entry **at = find(parent);
  uint32_t flags = *at ? flags_of_inode[(*at)->inode] : 0;
  if (!is_dir) flags &= ~FS_DIRSYNC_FL;
  flags_of_inode[inode] = flags;
  if (flags) put_plain(FLAGS, inode, flags, 0);
}

static int do_open(int at, const char *path, int flags, mode_t mode) {
  char buffer[PATH_BYTES];
  struct stat status;
  const char *full = log_fd >= 0 && path ? absolute(at, path, buffer) : path;
  if (!is_ours(full)) return syscall(SYS_openat, at, path, flags, mode);
  lock();
  int was_there = !stat(full, &status), fd = syscall(SYS_openat, at, path, flags, mode), error = errno;
  if (fd >= 0 && fd < MOST_FDS) {
    struct entry **found = find(full);
    uint32_t inode = was_there && *found ? (*found)->inode : 0;
    if (!inode) {
      inode = next_inode++;
      set(full, inode);
      fstat(fd, &status);
      int is_dir = S_ISDIR(status.st_mode);
      put_name(was_there ? OPEN : CREATE, is_dir, inode, full);
      if (!was_there) inherit(inode, full, is_dir);
    }
    if (was_there && (flags & O_TRUNC)) put_plain(TRUNCATE, inode, 0, 0);
    inode_of_fd[fd] = inode;
  }
  unlock();
  errno = error;
  return fd;
}

#define OPEN_MODE(last) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, last); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }
int open(const char *path, int flags, ...) { OPEN_MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPEN_MODE(flags) return do_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPEN_MODE(flags) return do_open(at, path, flags, mode); }

int close(int fd) {
  if (fd >= 0 && fd < MOST_FDS) inode_of_fd[fd] = 0;
  return syscall(SYS_close, fd);
}

int dup(int fd) {
  int new = syscall(SYS_dup, fd);
  if (new >= 0 && new < MOST_FDS) inode_of_fd[new] = inode_of(fd);
  return new;
}

int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  long argument = va_arg(rest, long);
  va_end(rest);
  int new = syscall(SYS_fcntl, fd, command, argument);
  int copies = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
  if (copies && new >= 0 && new < MOST_FDS) inode_of_fd[new] = inode_of(fd);
  return new;
}
int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  long argument = va_arg(rest, long);
  va_end(rest);
  return fcntl(fd, command, argument);
}

static void do_end(enum op op, uint32_t inode, uint64_t number, int64_t result) {
  lock();
  put_plain(op, inode, number, result < 0 ? 0 : result);
  unlock();
}

static uint64_t write_begins(int fd, const struct iovec *data, int parts, int64_t offset) {
  uint64_t length = 0;
  struct stat status;
  for (int i = 0; i < parts; i++) length += data[i].iov_len;
  if (offset < 0 && (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND)) {
    fstat(fd, &status);
    offset = status.st_size;
  } else if (offset < 0) {
    offset = lseek(fd, 0, SEEK_CUR);
  }
  return put(WRITE_BEGIN, 0, inode_of(fd), offset, length, 0, 0, data, parts);
}

#define WRITE(call, data, parts, offset) \
  uint32_t inode = inode_of(fd); \
  if (!inode) return call; \
  lock(); \
  uint64_t number = write_begins(fd, data, parts, offset); \
  unlock(); \
  ssize_t result = call; \
  int error = errno; \
  if (delay && (flags_of_inode[inode] & FS_SYNC_FL)) usleep(delay); \
  do_end(WRITE_END, inode, number, result); \
  errno = error; \
  return result
ssize_t write(int fd, const void *bytes, size_t n) {
  struct iovec one = { (void *)bytes, n };
  WRITE(syscall(SYS_write, fd, bytes, n), &one, 1, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
  struct iovec one = { (void *)bytes, n };
  WRITE(syscall(SYS_pwrite64, fd, bytes, n, offset), &one, 1, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t offset) { return pwrite(fd, bytes, n, offset); }
ssize_t writev(int fd, const struct iovec *data, int n) { WRITE(syscall(SYS_writev, fd, data, n), data, n, -1); }

static int do_sync(int fd, long number) {
  uint32_t inode = inode_of(fd);
  if (!inode) return syscall(number, fd);
  lock();
  uint64_t begun = put_plain(SYNC_BEGIN, inode, 0, 0);
  unlock();
  if (delay) usleep(delay);
  int result = syscall(number, fd), error = errno;
  if (!result) do_end(SYNC_END, inode, begun, 0);
  errno = error;
  return result;
}
int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }
/* No guarantee: it writes neither sizes nor extents, and does not flush the cache of the disk. */
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
  if (inode_of(fd) && delay) usleep(delay);
  return syscall(SYS_sync_file_range, fd, offset, length, flags);
}

int ftruncate(int fd, off_t length) {
  uint32_t inode = inode_of(fd);
  if (!inode) return syscall(SYS_ftruncate, fd, length);
  lock();
  put_plain(TRUNCATE, inode, length, 0);
  int result = syscall(SYS_ftruncate, fd, length), error = errno;
  unlock();
  errno = error;
  return result;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char one[PATH_BYTES], two[PATH_BYTES];
  const char *a = log_fd >= 0 ? absolute(from_at, from, one) : from;
  const char *b = log_fd >= 0 ? absolute(to_at, to, two) : to;
  if (!is_ours(a) || !is_ours(b)) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
  lock();
  int result = syscall(SYS_renameat2, from_at, from, to_at, to, flags), error = errno;
  if (!result) {
    uint32_t inode = forget(a);
    forget(b);
    if (inode) set(b, inode);
    put_two_names(RENAME, inode, a, b);
  }
  unlock();
  errno = error;
  return result;
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  char one[PATH_BYTES], two[PATH_BYTES];
  const char *a = log_fd >= 0 ? absolute(from_at, from, one) : from;
  const char *b = log_fd >= 0 ? absolute(to_at, to, two) : to;
  if (!is_ours(a) || !is_ours(b)) return syscall(SYS_linkat, from_at, from, to_at, to, flags);
  lock();
  int result = syscall(SYS_linkat, from_at, from, to_at, to, flags), error = errno;
  if (!result) {
    struct entry **found = find(a);
    if (!*found) {
      set(a, next_inode++);
      found = find(a);
      put_name(OPEN, 0, (*found)->inode, a);
    }
    uint32_t inode = (*found)->inode;
    set(b, inode);
    put_two_names(LINK, inode, a, b);
  }
  unlock();
  errno = error;
  return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
  char buffer[PATH_BYTES];
  const char *full = log_fd >= 0 ? absolute(at, path, buffer) : path;
  if (!is_ours(full)) return syscall(SYS_unlinkat, at, path, flags);
  lock();
  int result = syscall(SYS_unlinkat, at, path, flags), error = errno;
  if (!result) put_name(UNLINK, flags != 0, forget(full), full);
  unlock();
  errno = error;
  return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
  char buffer[PATH_BYTES];
  const char *full = log_fd >= 0 ? absolute(at, path, buffer) : path;
  if (!is_ours(full)) return syscall(SYS_mkdirat, at, path, mode);
  lock();
  int result = syscall(SYS_mkdirat, at, path, mode), error = errno;
  if (!result) {
    uint32_t inode = next_inode++;
    set(full, inode);
    put_name(MKDIR, 1, inode, full);
    inherit(inode, full, 1);
  }
  unlock();
  errno = error;
  return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  uint32_t inode = inode_of(fd);
  if (!inode || (request != FS_IOC_GETFLAGS && request != FS_IOC_SETFLAGS)) return syscall(SYS_ioctl, fd, request, argument);
  uint32_t *flags = argument;
  if (treatment == NONE || (treatment == FILES && request == FS_IOC_SETFLAGS && (*flags & FS_DIRSYNC_FL))) {
    errno = treatment == NONE ? ENOTTY : EOPNOTSUPP;
    return -1;
  }
  lock();
  if (request == FS_IOC_GETFLAGS) {
    *flags = flags_of_inode[inode];
  } else {
    flags_of_inode[inode] = *flags;
    put_plain(FLAGS, inode, *flags, 0);
  }
  unlock();
  return 0;
}

static int do_fstatfs(int fd, struct statfs64 *out) {
  int result = syscall(SYS_fstatfs, fd, out);
  if (!result && inode_of(fd)) out->f_type = treatment == HEEDED ? 0xef53 : treatment == FILES ? 0x58465342 : 0x01021994;
  return result;
}
int fstatfs(int fd, struct statfs *out) { return do_fstatfs(fd, (struct statfs64 *)out); }
int fstatfs64(int fd, struct statfs64 *out) { return do_fstatfs(fd, out); }
