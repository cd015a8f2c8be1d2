/* Makes one kind of call fail or never return, for the files below a folder.
 *
 *   cc -O2 -shared -fPIC -o fail.so fail.c -ldl -lpthread
 *   FAIL_DIR=/abs/dir FAIL_CALL=fsync FAIL_HOW=EIO FAIL_WHEN=/abs/file LD_PRELOAD=/abs/fail.so program ...
 *
 * FAIL_CALL is fsync, fdatasync, pwrite or sync_file_range; FAIL_HOW is EIO or hang. The calls fail once
 * the file FAIL_WHEN exists.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *call, int fd) {
  const char *of = getenv("FAIL_CALL"), *dir = getenv("FAIL_DIR"), *when = getenv("FAIL_WHEN"), *how = getenv("FAIL_HOW");
  char link[64], path[4096];
  if (!of || !dir || !when || !how || strcmp(call, of) || access(when, F_OK)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  if (strncmp(path, dir, strlen(dir))) return 0;
  while (!strcmp(how, "hang")) pause();
  errno = EIO;
  return 1;
}

int fsync(int fd) { return fails("fsync", fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails("fdatasync", fd) ? -1 : syscall(SYS_fdatasync, fd); }
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
  return fails("sync_file_range", fd) ? -1 : syscall(SYS_sync_file_range, fd, offset, length, flags);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
  return fails("pwrite", fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, n, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t offset) { return pwrite(fd, bytes, n, offset); }
