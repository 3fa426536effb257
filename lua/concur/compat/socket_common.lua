-- SPDX-License-Identifier: MIT
--
-- What the objects of concur.compat.socket share: LuaSocket's words for errors, its time-outs, and
-- its options.

local concur = require "concur"
local core = require "concur.core"

local M = {}

-- LuaSocket answers most calls with 1, a float.
M.OK = 1.0

-- Errors ----------------------------------------------------------------------------------------

local WORDS = {
  ECONNREFUSED = "connection refused",
  ECONNRESET = "closed",
  ECONNABORTED = "closed",
  EPIPE = "closed",
  ETIMEDOUT = "timeout",
  EADDRINUSE = "address already in use",
  EACCES = "permission denied",
  EISCONN = "already connected",
  EAI_NONAME = "host or service not provided, or not known",
  EAI_AGAIN = "temporary failure in name resolution",
  EAI_FAIL = "non-recoverable failure in name resolution",
  EAI_SERVICE = "service not supported for socket type",
  EAI_FAMILY = "ai_family not supported",
  EAI_MEMORY = "memory allocation failure",
}

-- LuaSocket's string for an error of concur's; the end of a stream (nil) is "closed".
function M.words(err)
  if err == nil or err.kind == "Closed" then
    return "closed"
  end
  return WORDS[err.code] or err.errno and core.strerror(err.errno) or err.message
end

-- The object must be of the class; LuaSocket's message otherwise.
function M.check_class(object, wanted, method)
  if not wanted[object.class] then
    error(("bad argument #1 to '%s' (%s expected)"):format(method, wanted.name), 3)
  end
end

-- Time ------------------------------------------------------------------------------------------

local Timeouts = {}
Timeouts.__index = Timeouts
M.Timeouts = Timeouts

function M.new_timeouts()
  return { block = -1.0, total = -1.0, started = core.wall_time() }
end

-- `object:settimeout(value, mode)`
function M.settimeout(self, value, mode)
  if value ~= nil and type(value) ~= "number" then
    error(("bad argument #2 to 'settimeout' (number expected, got %s)"):format(type(value)), 2)
  end
  value = (value or -1) + 0.0
  mode = mode == nil and "b" or tostring(mode)
  local first = mode:sub(1, 1)
  if first == "b" then
    self.timeouts.block = value
  elseif first == "t" or first == "r" then
    self.timeouts.total = value
  else
    error("bad argument #3 to 'settimeout' (invalid timeout mode)", 2)
  end
  return M.OK
end

-- `object:gettimeout()`: both, as they were set
function M.gettimeout(self)
  return self.timeouts.block, self.timeouts.total
end

-- When a call that begins now is out of time, on the loop's clock; nil: never.
function M.deadline(self)
  local block, total = self.timeouts.block, self.timeouts.total
  local seconds = block >= 0 and (total >= 0 and math.min(block, total) or block) or total
  return seconds >= 0 and concur.now() + seconds or nil
end

-- Calls `fn(...)`, which waits, until the deadline: true and its results, or false.
function M.until_deadline(deadline, fn, ...)
  if not deadline then
    return true, fn(...)
  elseif deadline <= concur.now() then
    return false
  end
  return concur.move_on_at(deadline, fn, ...)
end

-- Options ---------------------------------------------------------------------------------------

-- What `setoption` is given: its name and its value are checked as LuaSocket does.
local function check_option(name, value, with_value)
  if type(name) ~= "string" then
    error(("bad argument #2 to 'setoption' (string expected, got %s)"):format(type(name)), 3)
  end
  local kind = core.socket_option_kind(name)
  if not kind or with_value and kind == "error" then
    error(("bad argument #2 to 'setoption' (unsupported option `%s')"):format(name), 3)
  elseif with_value and type(value) ~= kind then
    error(("bad argument #3 to 'setoption' (%s expected, got %s)"):format(kind, type(value)), 3)
  end
end

-- `object:setoption(name, value)`: an object without a descriptor keeps it until it has one.
function M.setoption(self, name, value)
  check_option(name, value, true)
  local fd = self:getfd()
  if self.closed then
    return nil, "setsockopt failed"
  elseif fd < 0 then
    self.options[name] = value
    return M.OK
  end
  if not core.socket_set(fd, name, value) then
    return nil, "setsockopt failed"
  end
  return M.OK
end

-- `object:getoption(name)`
function M.getoption(self, name)
  check_option(name)
  local fd = self:getfd()
  local value
  if fd >= 0 then
    value = core.socket_get(fd, name)
  else
    value = self.options[name]
  end
  if value == nil and name ~= "error" then
    return nil, "getsockopt failed"
  end
  return value
end

-- The object has a descriptor now: sets the options that it kept.
function M.apply_options(self)
  for name, value in pairs(self.options) do
    core.socket_set(self:getfd(), name, value)
  end
  self.options = {}
end

-- Names -----------------------------------------------------------------------------------------

-- A port as a number: LuaSocket takes 80, "80" and "http".
function M.port_number(port, method, argument)
  local number = math.tointeger(tonumber(port))
  if number and number >= 0 and number <= 65535 then
    return number
  elseif type(port) ~= "string" then
    error(("bad argument #%d to '%s' (string expected, got %s)"):format(argument, method,
      port == nil and "no value" or type(port)), 3)
  end
  local list, err = concur.dns.resolve("127.0.0.1", port)
  return list and list[1].port, list == nil and M.words(err) or nil
end

-- Host and port, as the object's own address functions give them, in LuaSocket's form.
function M.address(host, port, as_string)
  if not host then
    return nil, M.words(port)
  end
  return host, as_string and tostring(port) or port, host:find(":", 1, true) and "inet6" or "inet"
end

return M
