/* Preloaded into the server: each fdatasync, by which Postgres flushes its write-ahead log on Linux, takes so many
 * microseconds longer, as on a disk that is a network away. Data files are flushed by fsync and stay as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

int fdatasync(int file) {
  static int (*real)(int);
  static long micros = -1;
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  if (micros < 0) {
    const char *text = getenv("LOADTEST_SLOW_FLUSH_MICROS");
    micros = text ? atol(text) : 0;
  }
  int result = real(file);
  int said = errno;
  struct timespec left = {micros / 1000000, micros % 1000000 * 1000};
  while (nanosleep(&left, &left) == -1 && errno == EINTR) continue;
  errno = said;
  return result;
}
