/* SPDX-License-Identifier: MIT */
/*
 * How wide the terminal is that a standard stream leads to.
 *
 * Asked anew each time (about a microsecond), so that a resized window is noticed.  libuv's
 * uv_tty_t would need a loop and change the descriptor's mode, hence the system's own calls.
 * Holds nothing.
 */
#include "terminal.h"

#include <uv.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/ioctl.h>
#endif

/* Columns of the terminal behind descriptor 0, 1 or 2; 0 when it does not tell. */
static int terminal_columns(int descriptor) {
#ifdef _WIN32
  static const DWORD ids[] = {STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE};
  CONSOLE_SCREEN_BUFFER_INFO info;
  if (!GetConsoleScreenBufferInfo(GetStdHandle(ids[descriptor]), &info)) return 0;
  return info.srWindow.Right - info.srWindow.Left + 1;
#else
  struct winsize size;
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
#endif
}

/* terminal_width(descriptor): nil when the standard stream (0, 1, 2) is no terminal, else its
   columns, 80 where it does not tell. */
static int l_terminal_width(lua_State *L) {
  lua_Integer descriptor = luaL_checkinteger(L, 1);
  luaL_argcheck(L, descriptor >= 0 && descriptor <= 2, 1, "0, 1 or 2 expected");
  if (uv_guess_handle((uv_file)descriptor) != UV_TTY) {
    luaL_pushfail(L);
    return 1;
  }
  int columns = terminal_columns((int)descriptor);
  lua_pushinteger(L, columns > 0 ? columns : 80);
  return 1;
}

void concur_terminal_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg functions[] = {{"terminal_width", l_terminal_width}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
