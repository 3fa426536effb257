-- SPDX-License-Identifier: MIT
--
-- LuaSocket's TCP objects on concur's streams and listeners.
--
-- An object is a "tcp{master}" until `connect` makes it a "tcp{client}", which has a `stream`, or
-- `listen` a "tcp{server}", which has a `listener` (already from `bind` on). What has arrived and was
-- not asked for yet is in `buffer`, from `position` on: LuaSocket's patterns differ from those of
-- streams. All errors are LuaSocket's strings.

local concur = require "concur"
local common = require "concur.compat.socket_common"
local core = require "concur.core"
local net = require "concur.net"

local OK = common.OK
local CHUNK = 65536 -- bytes that are read or written at a time

local TCP = { __name = "tcp" }
TCP.__index = TCP

local CLIENT = { ["tcp{client}"] = true, name = "tcp{client}" }
local SERVER = { ["tcp{server}"] = true, name = "tcp{server}" }
local MASTER = { ["tcp{master}"] = true, ["tcp{client}"] = true, name = "tcp{any}" }
local ANY = { ["tcp{master}"] = true, ["tcp{client}"] = true, ["tcp{server}"] = true,
  name = "tcp{any}" }

local M = { TCP = TCP }

local function new_object(class, family)
  return setmetatable({
    class = class, family = family, options = {}, timeouts = common.new_timeouts(),
    buffer = "", position = 1, received = 0, sent = 0, born = core.wall_time(),
  }, TCP)
end

local function become_client(self, stream)
  stream:setvbuf "no"
  stream:nodelay(false) -- as sockets are made
  self.stream = stream
  self.class = "tcp{client}"
  common.apply_options(self)
  return self
end

function M.tcp()
  return new_object "tcp{master}"
end

function M.tcp4()
  return new_object("tcp{master}", "inet")
end

function M.tcp6()
  return new_object("tcp{master}", "inet6")
end

function TCP:__tostring()
  return ("%s: %p"):format(self.class, self)
end

-- Receiving -------------------------------------------------------------------------------------

local function buffered(self)
  return #self.buffer - self.position + 1
end

-- The next bytes of the stream, or nil and why there are none.
local function fetch(self, deadline)
  local stream = self.stream
  if self.closed or not stream or stream:closed() then
    return nil, "closed"
  end
  local in_time = true
  local data, err
  if not deadline or stream:buffered() > 0 or core.socket_ready(stream:fd(), "r") then
    data, err = stream:read_some(CHUNK)
  else
    in_time, data, err = common.until_deadline(deadline, stream.read_some, stream, CHUNK)
  end
  if not in_time then
    return nil, "timeout"
  elseif not data then
    return nil, common.words(err)
  end
  self.received = self.received + #data
  return data
end

-- Puts what was taken back, behind the prefix in `parts`: a call that is cancelled has taken nothing.
local Undo = {}

function Undo:__close(err)
  if err ~= nil then
    local client = self.client
    client.buffer = table.concat(self.parts, "", 2) .. client.buffer:sub(client.position)
    client.position = 1
  end
end

-- Makes sure that something is in the buffer; nil and the reason if that is impossible.
local function fill(self, parts, deadline)
  if buffered(self) > 0 then
    return true
  end
  local _ <close> = parts[2] and setmetatable({ client = self, parts = parts }, Undo) or nil
  local data, err = fetch(self, deadline)
  if not data then
    return nil, err
  end
  self.buffer, self.position = data, 1
  return true
end

-- Takes at most `count` bytes out of the buffer.
local function take(self, count)
  local from = self.position
  self.position = math.min(from + count, #self.buffer + 1)
  return self.buffer:sub(from, self.position - 1)
end

-- Each of these appends what it takes to `parts` and returns nil, or the error.

local function receive_count(self, parts, count, deadline)
  repeat
    local ok, err = fill(self, parts, deadline)
    if not ok then
      return err
    end
    local part = take(self, count)
    parts[#parts + 1] = part
    count = count - #part
  until count <= 0
end

local function receive_line(self, parts, deadline)
  while true do
    local ok, err = fill(self, parts, deadline)
    if not ok then
      return err
    end
    local newline = self.buffer:find("\n", self.position, true)
    parts[#parts + 1] = take(self, newline and newline - self.position + 1 or buffered(self))
    if newline then
      return nil
    end
  end
end

local function receive_all(self, parts, deadline)
  local some = false
  while true do
    local ok, err = fill(self, parts, deadline)
    if not ok then
      return (err ~= "closed" or not some) and err or nil
    end
    some = true
    parts[#parts + 1] = take(self, buffered(self))
  end
end

-- `client:receive(pattern, prefix)`
function TCP:receive(pattern, prefix)
  common.check_class(self, CLIENT, "receive")
  prefix = prefix == nil and "" or common.check_string(prefix, 3, "receive")
  pattern = pattern == nil and "*l" or pattern
  local number = tonumber(pattern)
  pattern = number or common.check_string(pattern, 2, "receive")
  if number and number < 0 or not number and not pattern:find "^%*[la]" then
    common.argument_error(2, "receive", "invalid receive pattern")
  end
  local deadline = common.begin(self)
  local parts, err, is_line = { prefix }, nil, false
  if number then
    local wanted = math.floor(number) - #prefix
    if prefix == "" or wanted > 0 then
      err = receive_count(self, parts, wanted, deadline)
    end
  elseif pattern:find "^%*l" then
    is_line = true
    err = receive_line(self, parts, deadline)
  else
    err = receive_all(self, parts, deadline)
  end
  local text = table.concat(parts, "", 2)
  text = prefix .. (is_line and text:gsub("[\r\n]", "") or text)
  if err then
    return nil, err, text
  end
  return text, nil, nil
end

-- `client:dirty()`: something was read ahead.
function TCP:dirty()
  common.check_class(self, ANY, "dirty")
  local stream = self.stream
  return buffered(self) > 0 or stream ~= nil and not stream:closed() and stream:buffered() > 0
end

-- For socket.select: waits until there is something to read, or the end.
function TCP:await_readable()
  local stream = self.stream
  if not self:dirty() then
    local data, err = fetch(self)
    if data then
      self.buffer, self.position = data, 1
    else
      return nil, err
    end
  end
  return stream
end

-- Sending ---------------------------------------------------------------------------------------

-- Sends bytes `first` to `last`; returns how far it came, and the error.
local function send_range(self, data, first, last, deadline)
  local stream = self.stream
  while first <= last do
    if self.closed or not stream or stream:closed() then
      return first - 1, "closed"
    end
    local part = data:sub(first, math.min(first + CHUNK - 1, last))
    local in_time = true
    local ok, err
    if deadline and deadline <= concur.now() and core.socket_ready(stream:fd(), "w") then
      ok, err = stream:write(part)
    else
      in_time, ok, err = common.until_deadline(deadline, stream.write, stream, part)
    end
    if not in_time then
      return first - 1, "timeout"
    elseif not ok then
      return first - 1, common.words(err)
    end
    first = first + #part
    self.sent = self.sent + #part
  end
  return last
end

-- `client:send(data, i, j)`
function TCP:send(data, i, j)
  common.check_class(self, CLIENT, "send")
  data = common.check_string(data, 2, "send")
  local first = math.floor(common.opt_number(i, 3, "send", 1))
  local last = math.floor(common.opt_number(j, 4, "send", -1))
  first = math.max(first < 0 and #data + first + 1 or first, 1)
  last = math.min(last < 0 and #data + last + 1 or last, #data)
  if first > last then
    return first - 1.0, nil, nil
  elseif self.shut_down then
    return nil, "closed", first - 1.0
  end
  local reached, err = send_range(self, data, first, last, common.begin(self))
  if err then
    return nil, err, reached + 0.0
  end
  return reached + 0.0, nil, nil
end

-- `client:shutdown(how)`: "both" (default), "send", "receive"
function TCP:shutdown(how)
  common.check_class(self, CLIENT, "shutdown")
  how = how == nil and "both" or common.check_string(how, 2, "shutdown")
  if how ~= "both" and how ~= "send" and how ~= "receive" then
    common.argument_error(2, "shutdown", ("invalid option '%s'"):format(how))
  elseif self.stream and not self.stream:closed() then
    if how ~= "receive" then
      self.shut_down = true
      self.stream:shutdown()
    end
    if how ~= "send" and not self.stream:closed() then
      core.socket_stop_receiving(self.stream:fd())
    end
  end
  return OK
end

-- Connecting ------------------------------------------------------------------------------------

-- The options of net.connect: where `bind` put the object.
local function connect_options(self)
  local options = { family = self.family, nodelay = false }
  if self.listener then
    options.local_address, options.local_port = self.listener:address()
    self.listener:close()
    self.listener = nil
  end
  return options
end

-- Connects; true, or nil and the error.
local function connect_now(self, host, port, options)
  local stream, err = net.connect(host, port, options)
  if not stream then
    return nil, common.words(err)
  elseif self.closed then -- by another task, meanwhile
    stream:close(0)
    return nil, "closed"
  end
  become_client(self, stream)
  return true
end

-- With a time-out of 0 connecting goes on by itself.
local function connect_later(self, host, port, options)
  self.connecting = concur.spawn(connect_now, self, host, port, options)
  return nil, "timeout"
end

local function connect_again(self)
  if not self.connecting:done() then
    return nil, "Operation already in progress"
  end
  local ok, err = self.connecting:result()
  self.connecting = nil
  if not ok then
    return nil, err
  end
  return OK
end

-- Under the name that the user called it by: `connect` or `setpeername`.
local function connect(self, host, port, name)
  common.check_class(self, MASTER, name)
  host = common.check_string(host, 2, name)
  common.check_string(port, 3, name)
  local deadline = common.begin(self)
  if self.connecting then
    return connect_again(self)
  elseif self.stream then
    return nil, "already connected"
  elseif self.closed then
    return nil, "closed"
  end
  local number, err = common.port_number(port, 3, name)
  if not number then
    return nil, err
  end
  local options = connect_options(self)
  if deadline and deadline <= concur.now() then
    return connect_later(self, host, number, options)
  end
  local in_time, ok
  in_time, ok, err = common.until_deadline(deadline, connect_now, self, host, number, options)
  if not in_time then
    return nil, "timeout"
  elseif not ok then
    return nil, err
  end
  return OK
end

-- `master:connect(host, port)`
function TCP:connect(host, port)
  local ok, err = connect(self, host, port, "connect")
  if not ok then
    return nil, err
  end
  return OK
end

-- `master:setpeername(host, port)`: the same
function TCP:setpeername(host, port)
  local ok, err = connect(self, host, port, "setpeername")
  if not ok then
    return nil, err
  end
  return OK
end

-- Serving ---------------------------------------------------------------------------------------

-- Under the name that the user called it by: it listens from here on, whenever `listen` is called.
local function bind(self, host, port, name)
  common.check_class(self, MASTER, name)
  host = common.check_string(host, 2, name)
  local number, err = common.port_number(port, 3, name)
  if not number then
    return nil, err
  end
  if host == "*" then
    host = self.family == "inet6" and "::" or "0.0.0.0"
  end
  local listener
  listener, err = net.listen(host, number, {
    family = self.family, nodelay = false, reuseport = self.options.reuseport,
    ipv6only = self.options["ipv6-v6only"],
  })
  if not listener then
    return nil, common.words(err)
  end
  self.listener = listener
  return OK
end

-- `master:bind(host, port)`
function TCP:bind(host, port)
  local ok, err = bind(self, host, port, "bind")
  if not ok then
    return nil, err
  end
  return OK
end

-- `master:setsockname(host, port)`: the same
function TCP:setsockname(host, port)
  local ok, err = bind(self, host, port, "setsockname")
  if not ok then
    return nil, err
  end
  return OK
end

-- `master:listen(backlog)`
function TCP:listen(backlog)
  common.check_class(self, MASTER, "listen")
  common.opt_number(backlog, 2, "listen", 0)
  if not self.listener then
    local ok, err = bind(self, "*", 0, "listen")
    if not ok then
      return nil, err
    end
  end
  self.class = "tcp{server}"
  common.apply_options(self)
  return OK
end

-- `server:accept()`
function TCP:accept()
  common.check_class(self, SERVER, "accept")
  local listener, deadline = self.listener, common.begin(self)
  if not listener or listener:closed() then
    return nil, "closed"
  end
  local in_time = true
  local stream, err
  if not deadline or core.socket_ready(listener:fd(), "r") then
    stream, err = listener:accept()
  else
    in_time, stream, err = common.until_deadline(deadline, listener.accept, listener)
  end
  if not in_time then
    return nil, "timeout"
  elseif not stream then
    return nil, common.words(err)
  end
  return become_client(new_object("tcp{client}", self.family), stream)
end

-- The rest --------------------------------------------------------------------------------------

-- What has the descriptor now, or nil.
local function handle_of(self)
  local handle = self.stream or self.listener
  return handle and not handle:closed() and handle or nil
end

-- `object:close()`
function TCP:close()
  common.check_class(self, ANY, "close")
  if self.connecting then
    self.connecting:cancel()
    self.connecting = nil
  end
  local handle = handle_of(self)
  self.closed = true
  self.buffer, self.position = "", 1
  if handle then
    handle:close()
  end
  return OK
end

TCP.__close = TCP.close

-- `object:getfd()`: -1 without a descriptor
function TCP:getfd()
  common.check_class(self, ANY, "getfd")
  local handle = handle_of(self)
  return handle and handle:fd() + 0.0 or -1.0
end

-- `object:setfd(fd)`: the object takes the connection over that the descriptor is.
function TCP:setfd(fd)
  common.check_class(self, ANY, "setfd")
  fd = math.tointeger(common.check_number(fd, 2, "setfd"))
  local stream = fd and fd >= 0 and fd < 2 ^ 31 and net.from_fd(fd)
  if stream then
    become_client(self, stream)
  end
end

-- `object:getsockname()`
function TCP:getsockname()
  common.check_class(self, ANY, "getsockname")
  local handle = handle_of(self)
  if not handle then
    return nil, "Bad file descriptor"
  end
  local host, port = (handle.local_address or handle.address)(handle)
  return common.address(host, port, true)
end

-- `object:getpeername()`
function TCP:getpeername()
  common.check_class(self, ANY, "getpeername")
  local handle = handle_of(self)
  if not handle then
    return nil, "Bad file descriptor"
  elseif not self.stream then
    return nil, "Transport endpoint is not connected"
  end
  return common.address(self.stream:peer_address())
end

-- `client:getstats()`: bytes received, bytes sent, age in seconds
function TCP:getstats()
  common.check_class(self, CLIENT, "getstats")
  return self.received + 0.0, self.sent + 0.0, core.wall_time() - self.born
end

-- `client:setstats(received, sent, age)`
function TCP:setstats(received, sent, age)
  common.check_class(self, CLIENT, "setstats")
  self.received = received or self.received
  self.sent = sent or self.sent
  self.born = age and core.wall_time() - age or self.born
  return OK
end

common.add_methods(TCP, ANY)

return M
