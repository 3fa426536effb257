-- SPDX-License-Identifier: MIT
-- A server that speaks the protocol of Redis (RESP 2): PING, ECHO, SET, GET, DEL, EXISTS, INCR,
-- INCRBY, MGET, MSET, QUIT. Commands that arrive together are answered together.
--
--     lua5.4 examples/16_redis_server.lua --port 6380
--     redis-cli -p 6380 set key value        redis-benchmark -p 6380 -t set,get -P 16
--
-- Test: --self-test

local concur = require "concur"
local net = require "concur.net"

local LINE_LIMIT <const> = 64 * 1024
local VALUE_LIMIT <const> = 64 * 1024 * 1024
local WORDS_LIMIT <const> = 100000

-- Reading a command -------------------------------------------------------------------------------

local BAD = {} -- raised for what is no command: the connection ends

local function fail(text)
  error(setmetatable({ text = text }, BAD), 0)
end

local function read_line(stream)
  local line, err = stream:read_until("\n", LINE_LIMIT)
  if not line and err and err.kind == "LimitOverrun" then
    fail "too big inline request"
  end
  return line and line:match "^(.-)\r?\n$"
end

-- A list of strings, or nil at the end.
local function read_command(stream)
  local line = read_line(stream)
  if not line then
    return nil
  elseif line:byte() ~= 42 then -- no "*": words in a line, as typed by hand
    local words = {}
    for word in line:gmatch "%S+" do
      words[#words + 1] = word
    end
    return words
  end
  local count = tonumber(line:sub(2), 10)
  if not count or count > WORDS_LIMIT then
    fail "invalid multibulk length"
  end
  local words = {}
  for i = 1, count do
    line = read_line(stream)
    if not line then
      return nil
    end
    local size = line:byte() == 36 and tonumber(line:sub(2), 10) -- "$"
    if not size or size < 0 or size > VALUE_LIMIT then
      fail "invalid bulk length"
    end
    local data = stream:read(size + 2)
    if not data or #data < size + 2 then
      return nil
    end
    words[i] = data:sub(1, -3)
  end
  return words
end

-- Answers ----------------------------------------------------------------------------------------

local OK <const>, NIL <const> = "+OK\r\n", "$-1\r\n"

local function bulk(value)
  return value and ("$%d\r\n%s\r\n"):format(#value, value) or NIL
end

local function number(value)
  return (":%d\r\n"):format(value)
end

local function wrong(text)
  return ("-ERR %s\r\n"):format(text)
end

local data = {} -- what is stored

local function add(key, amount)
  local value = math.tointeger(tonumber(data[key] or "0"))
  amount = math.tointeger(tonumber(amount))
  if not value or not amount then
    return wrong "value is not an integer or out of range"
  end
  data[key] = ("%d"):format(value + amount)
  return number(value + amount)
end

local function array(items)
  return ("*%d\r\n%s"):format(#items, table.concat(items))
end

-- Name: the least and the largest number of arguments, and what it does with them.
local commands = {
  ping = { 0, 1, function(text) return text and bulk(text) or "+PONG\r\n" end },
  echo = { 1, 1, bulk },
  get = { 1, 1, function(key) return bulk(data[key]) end },
  set = { 2, 2, function(key, value)
    data[key] = value
    return OK
  end },
  incr = { 1, 1, function(key) return add(key, 1) end },
  incrby = { 2, 2, add },
  del = { 1, math.huge, function(...)
    local count = 0
    for _, key in ipairs { ... } do
      count = data[key] and count + 1 or count
      data[key] = nil
    end
    return number(count)
  end },
  exists = { 1, math.huge, function(...)
    local count = 0
    for _, key in ipairs { ... } do
      count = data[key] and count + 1 or count
    end
    return number(count)
  end },
  mget = { 1, math.huge, function(...)
    local items = {}
    for i, key in ipairs { ... } do
      items[i] = bulk(data[key])
    end
    return array(items)
  end },
  mset = { 2, math.huge, function(...)
    local words = { ... }
    if #words % 2 == 1 then
      return wrong "wrong number of arguments for 'mset' command"
    end
    for i = 1, #words, 2 do
      data[words[i]] = words[i + 1]
    end
    return OK
  end },
  command = { 0, math.huge, function() return "*0\r\n" end }, -- redis-cli asks for it
  config = { 0, math.huge, function() return "*0\r\n" end }, -- and redis-benchmark for this
}

local function answer(words)
  local name = (words[1] or ""):lower()
  local command = commands[name]
  if not command then
    return wrong(("unknown command '%s'"):format(name:sub(1, 128):gsub("%c", " ")))
  elseif #words - 1 < command[1] or #words - 1 > command[2] then
    return wrong(("wrong number of arguments for '%s' command"):format(name))
  end
  return command[3](table.unpack(words, 2))
end

-- Connections -----------------------------------------------------------------------------------

local function serve_commands(stream)
  local answers = {}
  for words in read_command, stream do
    if words[1] and words[1]:lower() == "quit" then
      stream:write(table.concat(answers), OK)
      return
    elseif #words > 0 then
      answers[#answers + 1] = answer(words)
    end
    if #answers >= 256 or stream:buffered() == 0 then -- nothing more to answer just now
      if not stream:write(table.concat(answers)) then
        return
      end
      answers = {}
    end
  end
end

local function serve_connection(stream)
  local ok, err = concur.pcall(serve_commands, stream)
  if not ok then
    if getmetatable(err) ~= BAD then
      error(err, 0)
    end
    stream:write("-ERR Protocol error: ", err.text, "\r\n")
    stream:shutdown() -- and let the client read it before the connection is reset
    concur.move_on_after(1, function() repeat until not stream:read_some() end)
  end
end

-- The program ------------------------------------------------------------------------------------

local function self_test(listener)
  local _, port = listener:address()
  local stream = assert(net.connect("127.0.0.1", port))
  stream:write "SET key value\r\nGET key\r\nINCR count\r\nPING\r\nQUIT\r\n"
  print(stream:read "a")
  stream:close()
  listener:close()
end

local port = 0
for i, word in ipairs(arg) do
  port = word == "--port" and tonumber(arg[i + 1]) or port
end

concur.main(function()
  assert(net.serve(serve_connection, "127.0.0.1", port, {
    grace = 1,
    on_listen = function(listener)
      print(("listening at %s:%d"):format(listener:address()))
      io.stdout:flush()
      if arg[1] == "--self-test" then
        concur.spawn(self_test, listener)
      end
    end,
  }))
end)
