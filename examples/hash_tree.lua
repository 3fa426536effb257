-- SPDX-License-Identifier: MIT
-- Hashes every file below a directory on all cores, while a progress bar keeps moving.
--
--     make demo                        the system's headers
--     make demo DIR=/some/directory
--     lua5.4 examples/hash_tree.lua --help
--
-- Worker threads walk the tree, read the files and hash them, with a SHA-256 written in Lua: the
-- work that a single Lua state cannot spread over cores. The main thread only hands out paths,
-- collects digests and draws.
--
-- Test: --jobs 2 lua

-- sha256.lua lies beside this file. Workers inherit the path.
package.path = (arg[0]:match "^.*/" or "./") .. "?.lua;" .. package.path

local concur = require "concur"
local lfs = require "lfs"
local sha256 = require "sha256"

local errors = concur.errors

local DEFAULT_ROOT = "/usr/include"
local CHUNK <const> = 256 * 1024 -- bytes hashed before a job looks whether it was cancelled
local WINDOW <const> = 4 -- jobs in flight for each worker
local SAMPLE_SECONDS <const> = 2 -- how long one thread works for the comparison
local TICK <const> = 0.1 -- seconds between two drawings of the bar
local COLUMNS <const> = 77 -- of the bar: on a terminal of 80, ^C still fits behind it

local USAGE = [[
usage: hash_tree.lua [options] [PATH...]

Computes the SHA-256 digest of every file below each PATH (a directory or a file;
default: /usr/include) on worker threads. Symbolic links are not followed.

  -j, --jobs N   how many worker threads (default: one for each processor)
  -l, --list     print the digests as sha256sum does, the summary on stderr
  -h, --help     print this text

Exit code: 0, 1 if something could not be read, 2 for wrong options.
]]

-- What runs on worker threads -------------------------------------------------------------------

-- Lists the regular files below `root`. Returns lists of {path=, size=} and of problems (texts).
local function list_files(root)
  local files, problems = {}, {}

  local function visit(path, attributes)
    if attributes.mode == "file" then
      files[#files + 1] = { path = path, size = attributes.size }
    elseif attributes.mode == "directory" and not concur.cancelled() then
      local ok, entries, directory = pcall(lfs.dir, path)
      if not ok then
        problems[#problems + 1] = (entries:gsub("^cannot open ", ""))
        return
      end
      for name in entries, directory do
        if name ~= "." and name ~= ".." then
          local child = path:gsub("/$", "") .. "/" .. name
          -- An entry that has just vanished has no attributes: it is not there any more.
          visit(child, lfs.symlinkattributes(child) or {})
        end
      end
    end
  end

  local attributes, message = lfs.attributes(root)
  if attributes then
    visit(root, attributes)
  else
    problems[1] = root .. ": " .. (message:match ": ([^:]*)$" or message)
  end
  return files, problems
end

-- Reads and hashes one file. Returns its digest and how many bytes it had, or nil and a text.
local function hash_file(path)
  local file <close>, message = io.open(path, "rb")
  if not file then
    return nil, message
  end
  local hash, bytes = sha256.new(), 0
  while not concur.cancelled() do
    local chunk, read_error = file:read(CHUNK)
    if chunk then
      hash:update(chunk)
      bytes = bytes + #chunk
    elseif read_error then
      return nil, path .. ": " .. read_error
    else
      return hash:hex(), bytes
    end
  end
  return nil, path .. ": cancelled"
end

-- Showing ---------------------------------------------------------------------------------------

local is_terminal = os.execute "test -t 2" == true
local has_utf8 = (os.getenv "LC_ALL" or os.getenv "LC_CTYPE" or os.getenv "LANG" or "")
  :lower():find "utf%-?8" ~= nil
local FULL, EMPTY = "#", "."
if has_utf8 then
  FULL, EMPTY = "\u{2588}", "\u{2591}"
end

-- Replaces the line on the terminal; without a text, erases it.
local function show(text)
  if is_terminal then
    io.stderr:write("\r\27[K", text or "")
    io.stderr:flush()
  end
end

local function complain(text)
  show()
  io.stderr:write("hash_tree: ", text, "\n")
end

local function megabytes(bytes)
  return bytes / 1e6
end

-- Work that was done in some time: {files=, bytes=, started=, seconds=}. Counts while it is done.
local function new_tally()
  return { files = 0, bytes = 0, started = concur.now(), seconds = 0 }
end

local function count(tally, bytes)
  tally.files = tally.files + 1
  tally.bytes = tally.bytes + bytes
  tally.seconds = concur.now() - tally.started
end

local function speed(tally) -- bytes per second
  return tally.seconds > 0 and tally.bytes / tally.seconds or 0
end

-- The progress line: what, a bar as wide as there is room, and figures.
local function progress_line(label, tally, total)
  local elapsed = concur.now() - tally.started
  local rate = tally.bytes / math.max(elapsed, 1e-9)
  local done = math.min(tally.bytes / math.max(total.bytes, 1), 1)
  local left = rate > 0 and math.ceil((total.bytes - tally.bytes) / rate) or 0
  local head = ("%s %3.0f%% "):format(label, 100 * done)
  local tail = (" %d/%d files %.1f/%.1f MB %.1f MB/s %d:%02d left"):format(tally.files,
    total.files, megabytes(tally.bytes), megabytes(total.bytes), megabytes(rate), left // 60,
    left % 60)
  local room = math.max(COLUMNS - #head - #tail, 0)
  local full = math.floor(done * room)
  return (head .. FULL:rep(full) .. EMPTY:rep(room - full) .. tail)
end

local eraser = setmetatable({}, {
  __close = function()
    show()
  end,
})

-- Runs `work` while `line()` is drawn again and again. Returns the results of `work`.
local function with_progress(line, work)
  local _ <close> = eraser -- once the group has ended: then nobody draws any more
  return concur.task_group(function(group)
    local ticker = group:spawn(function()
      while true do
        show(line())
        concur.sleep(TICK)
      end
    end)
    local results = table.pack(work())
    ticker:cancel()
    return table.unpack(results, 1, results.n)
  end)
end

local function print_summary(out, report)
  local roots = table.concat(report.roots, ", ")
  out:write("\nSHA-256 of every file below ", roots, "\n\n")
  out:write(("%-26s %8s %12s %9s %12s\n"):format("", "files", "data", "time", "speed"))
  local function row(label, tally)
    out:write(("%-26s %8d %9.1f MB %7.2f s %7.1f MB/s\n"):format(label, tally.files,
      megabytes(tally.bytes), tally.seconds, megabytes(speed(tally))))
  end
  row(("%d worker thread%s"):format(report.jobs, report.jobs == 1 and "" or "s"), report.pooled)
  if report.single then
    local all = report.single.files == report.pooled.files
    row(all and "one thread" or "one thread, a sample", report.single)
    if speed(report.single) > 0 and not report.interrupted then
      out:write(("%-26s %46.2f x\n"):format("speed-up",
        speed(report.pooled) / speed(report.single)))
    end
  end
  if report.unreadable > 0 then
    out:write(("\n%d file%s could not be read\n"):format(report.unreadable,
      report.unreadable == 1 and "" or "s"))
  end
  if report.interrupted then
    out:write(("\ninterrupted: %d of %d files were hashed\n"):format(report.pooled.files,
      report.total.files))
  end
end

-- The work --------------------------------------------------------------------------------------

-- Walks all roots at the same time. Returns the files, ordered by path, and what they add up to.
local function find_files(report)
  local lists = with_progress(function()
    return ("looking for files below %s"):format(table.concat(report.roots, ", ")):sub(1, COLUMNS)
  end, function()
    local walks = {}
    for i, root in ipairs(report.roots) do
      walks[i] = function()
        return { concur.to_thread(list_files, root) }
      end
    end
    return concur.gather(walks)
  end)

  local files, total = {}, { files = 0, bytes = 0 }
  for _, list in ipairs(lists) do
    local found, problems = list[1], list[2]
    for _, text in ipairs(problems) do
      complain(text)
      report.problems = report.problems + 1
    end
    for _, file in ipairs(found) do
      files[#files + 1] = file
      total.bytes = total.bytes + file.size
    end
  end
  table.sort(files, function(a, b)
    return a.path < b.path
  end)
  total.files = #files
  return files, total
end

local function hash_on_workers(report, files)
  local pool <close> = concur.ThreadPoolExecutor(report.jobs)
  local paths = {}
  for i, file in ipairs(files) do
    paths[i] = file.path
  end
  local options = { ordered = false, window = WINDOW * report.jobs }
  report.pooled = new_tally()
  with_progress(function()
    return progress_line("hashing", report.pooled, report.total)
  end, function()
    for i, digest, bytes in pool:map(hash_file, paths, options) do
      if digest then
        files[i].digest = digest
        count(report.pooled, bytes)
      else
        complain(bytes) -- hash_file's second result is the error then
        report.unreadable = report.unreadable + 1
      end
    end
  end)
end

-- Does the same work in this thread for a while, on files from all over the tree.
local function hash_in_one_thread(report, files)
  math.randomseed(1) -- the same sample each time
  local order = table.move(files, 1, #files, 1, {})
  for i = #order, 2, -1 do
    local j = math.random(i)
    order[i], order[j] = order[j], order[i]
  end
  report.single = new_tally()
  local label = "the same work in one thread, for comparison"
  with_progress(function()
    return ("%s: %.1f MB/s"):format(label, megabytes(speed(report.single)))
  end, function()
    for _, file in ipairs(order) do
      if report.single.seconds >= SAMPLE_SECONDS then
        break
      end
      if file.digest then
        local digest, bytes = hash_file(file.path)
        if digest then
          count(report.single, bytes)
        end
        concur.sleep(0) -- lets the bar move, and Ctrl-C through
      end
    end
  end)
end

local function print_digests(files)
  for _, file in ipairs(files) do
    if file.digest then
      io.stdout:write(file.digest, "  ", file.path, "\n")
    end
  end
end

-- Returns the exit code.
local function hash_trees(options)
  local report = {
    roots = options.roots,
    jobs = options.jobs,
    problems = 0, -- places where no files could be looked for
    unreadable = 0, -- files
    total = { files = 0, bytes = 0 },
    pooled = new_tally(),
  }
  local out = options.list and io.stderr or io.stdout
  local files = {}
  local ok, err = pcall(function()
    files, report.total = find_files(report)
    if #files > 0 then
      hash_on_workers(report, files)
      hash_in_one_thread(report, files)
    end
  end)
  report.interrupted = not ok and errors.is(err, "Cancelled")
  if not ok and not report.interrupted then
    error(err, 0)
  end

  if options.list then
    print_digests(files)
  end
  if report.total.files > 0 then
    print_summary(out, report)
  elseif ok then
    complain "there is no file to hash"
  end
  if report.interrupted then
    error(err, 0) -- concur.main ends this process the way Ctrl-C does
  end
  return #files > 0 and report.problems + report.unreadable == 0 and 0 or 1
end

-- The command line ------------------------------------------------------------------------------

local function fail(text)
  io.stderr:write("hash_tree: ", text, " (--help lists the options)\n")
  os.exit(2)
end

local function parse(arguments)
  local options = { roots = {}, jobs = nil, list = false }
  local i = 1
  while i <= #arguments do
    local word = arguments[i]
    local name, value = word:match "^(%-%-[^=]+)=(.*)$"
    name = name or word
    if name == "-j" or name == "--jobs" then
      if not value then
        i = i + 1
        value = arguments[i] or fail(name .. " needs a number")
      end
      options.jobs = math.tointeger(tonumber(value))
      if not options.jobs or options.jobs < 1 or options.jobs > 1024 then
        fail(("%s must be a whole number from 1 to 1024, not '%s'"):format(name, value))
      end
    elseif word == "-l" or word == "--list" then
      options.list = true
    elseif word == "-h" or word == "--help" then
      io.write(USAGE)
      os.exit(0)
    elseif word == "--" then
      table.move(arguments, i + 1, #arguments, #options.roots + 1, options.roots)
      break
    elseif word:sub(1, 1) == "-" then
      fail(("unknown option '%s'"):format(word))
    else
      options.roots[#options.roots + 1] = word
    end
    i = i + 1
  end
  if #options.roots == 0 then
    options.roots[1] = DEFAULT_ROOT
  end
  options.jobs = options.jobs or concur.cpu_count()
  return options
end

concur.main(hash_trees, parse(arg))
