/* Cuts a mounted ext4 or XFS off from its disk, like a power cut: neither data nor the journal is written
 * any more. For tests, as root.
 *
 *   cc -o cut cut.c && ./cut /mount/point
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

/* EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN have the same number and the same flag. */
#define SHUTDOWN _IOR('X', 125, uint32_t)
#define WITHOUT_THE_JOURNAL 2

int main(int argc, char **argv) {
  uint32_t how = WITHOUT_THE_JOURNAL;
  int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
  if (fd < 0 || ioctl(fd, SHUTDOWN, &how)) {
    perror(argc == 2 ? argv[1] : "usage: cut DIR");
    return 1;
  }
  return 0;
}
